"""What is refused before the first step, by the name of the setting."""

import pytest
from runs import PLATEAU

from pneumonia.errors import PneumoniaError


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["data.batch_size=5000"], r"data\.batch_size=5000"),
        (["data.sampler=balanced", "model.pos_weight=balanced"], r"model\.pos_weight"),
        (["monitor=val/auc"], "val/auc.*val/auroc"),
        (["monitor=val/loss"], "mode=min"),
        (["data.shifted_validation=false"], "val_shift/auroc.*val/auroc"),
        (["trainer.limit_val_batches=0"], r"trainer\.limit_val_batches"),
        (["trainer.check_val_every_n_epoch=9"], r"trainer\.check_val_every_n_epoch"),
        (["ckpt_path=last"], "last"),
        (["ckpt_path=true"], "True"),
        (["repeat=true"], "True"),
        (["trainer.max_epochs=0"], r"trainer\.max_epochs"),
        (["callbacks.best=null"], r"callbacks\.best"),
        (["callbacks.best=true"], r"callbacks\.best=True"),
        (["model.image_size=64"], r"model\.image_size=64.*data\.image_size=32"),
        (["seed=-1"], "seed=-1"),
        (["data.cache_size=16"], r"data\.cache_size"),
        (["evaluation.operating_point=sensitivity"], "0.95"),
        (["evaluation.alpha=0.5"], "0.5"),
        (["evaluation.target=0.9"], "0.9"),
        ([*PLATEAU, "+model.schedule.monitor=val/los"], "val/los.*val/loss"),
        ([*PLATEAU, "+model.schedule.monitor=val/auroc"], "val/auroc.*max"),
        ([*PLATEAU, "trainer.check_val_every_n_epoch=2"], "check_val_every_n_epoch=2"),
    ],
)
def test_a_run_that_could_only_fail_is_refused(overrides, named, train, tmp_path):
    with pytest.raises(PneumoniaError, match=named) as refused:
        train("test=false", *overrides)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_missing_test_split_is_refused_before_the_fit(train, kaggle, tmp_path):
    (kaggle / "test").rename(tmp_path / "elsewhere")
    with pytest.raises(PneumoniaError, match="test=false"):
        train(f"data.root={kaggle}")
