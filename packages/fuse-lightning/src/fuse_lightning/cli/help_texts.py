"""What `--help` prints. It is written by hand, because the parser would print every option of the Trainer."""

HELP = """\
usage: fuse-lightning COMMAND [options]

Train, evaluate and predict from a YAML configuration.

start
  template DIR          write the walkthrough as a project of your own
  fit --print_config    print a commented configuration that runs as it is

use a configuration
  check                 check that keys, shapes, dtypes and gradients fit together, without training
  fit                   train
  validate, test        evaluate a checkpoint
  predict               write a checkpoint's predictions to a table

options
  -h, --help            this help; after a command, the help of the command
  -V, --version         print the version
  --traceback           print the whole traceback of an error

A configuration is code: the classes that it names are imported and called. Do not run one that you do not trust.

Example:
  fuse-lightning fit --print_config > run.yaml
  fuse-lightning check --config run.yaml
  fuse-lightning fit --config run.yaml
  fuse-lightning test --config run.yaml
"""

_CONFIGURATION = """\
configuration
  -c, --config FILE     the configuration; may be given several times, later files override earlier ones
  --KEY VALUE           a key of the configuration by its dotted path; it overrides the file:
                        --trainer.max_epochs 5 --model.init_args.losses.cls.init_args.weight 0.5
  --print_config        print the whole configuration with all defaults, and stop{starting_point}
  --help_all            list every option

run
  --run_dir DIR         the folder for everything that the run writes (default: runs/default)
  --seed_everything N   the seed of all random numbers
"""

_REPORT = """\
  --report              write a page of results, index.html: after fit, and with more after test and predict.
                        A run that has a page keeps it up to date without this option
"""

_CHECKPOINT = """\
  --ckpt_path WHICH     a checkpoint's path, or best, or last, of the run folder, or untrained for the initial weights
                        (default: best, or last if there is no best one). If there are several best ones, give the path
"""

_EVALUATE = (
    "usage: fuse-lightning {0} --config FILE [options]\n\n{1}\n\n"
    + _CONFIGURATION.format(starting_point="")
    + _REPORT
    + _CHECKPOINT
)

COMMAND_HELP = {
    "fit": "usage: fuse-lightning fit --config FILE [options]\n\nTrain.\n\n"
    + _CONFIGURATION.format(starting_point=";\n                        without --config, a commented one to start from")
    + _REPORT
    + """\
  --ckpt_path WHICH     continue from a checkpoint: its path, or last for the last one of the run folder.
                        A checkpoint of another folder starts a new run
  --overwrite           replace the earlier run in the run folder
""",
    "validate": _EVALUATE.format("validate", "Compute the losses and metrics of the validation data."),
    "test": _EVALUATE.format("test", "Compute the losses and metrics of the test data."),
    "predict": _EVALUATE.format("predict", "Predict, and write predictions.csv to the run folder, a row per sample.")
    + "  --overwrite           replace predictions.csv\n",
    "check": "usage: fuse-lightning check --config FILE [options]\n\n"
    "Run model, losses and metrics on fake tensors. Report all keys, shapes, dtypes and gradients that do not fit.\n"
    "Prints a table for training, validation, test and prediction; equal ones are printed once. Writes them to\n"
    "contract.md, with a Mermaid drawing. The exit code is 2 if something does not fit. The old name is wiring.\n\n"
    "One sample of each dataset is loaded. To check without data, describe a batch in the configuration:\n\n"
    "  batch_spec:\n"
    "    data.image: {shape: [null, 1, 28, 28], dtype: float32}   # null is the batch axis\n"
    "    data.label: {shape: [null], dtype: int64}\n\n"
    + _CONFIGURATION.format(starting_point="")
    + """
output
  --output FILE         the Markdown file to write (default: contract.md)
""",
    "template": """\
usage: fuse-lightning template DIR [--style STYLE]

Write the walkthrough as a project of your own, to run and to edit.

  DIR                   the project's folder; it must be empty, or not exist yet
  --style STYLE         ready-made uses LightningModuleDefault, custom writes a LightningModule from the step functions
                        (default: ready-made)
""",
}

COMMAND_HELP["wiring"] = COMMAND_HELP["check"]
