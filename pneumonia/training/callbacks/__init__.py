"""Lightning callbacks; `conf/callbacks/default.yaml` lists those that a user may change."""
