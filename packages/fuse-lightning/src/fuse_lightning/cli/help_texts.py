"""What `--help` prints. Written by hand: what the parser would print lists every option of the Trainer."""

HELP = """\
usage: fuse-lightning COMMAND [options]

Train, evaluate and predict with everything told in a YAML file.

start
  template DIR          write a project of your own: the walkthrough's files, to edit
  fit --print_config    print a commented configuration that runs as it is

use a configuration
  wiring                print which component reads and writes which keys, without training
  fit                   train
  validate, test        evaluate a checkpoint
  predict               write a checkpoint's predictions to a table

options
  -h, --help            this help; behind a command, the command's
  -V, --version         print the version
  --traceback           print where an error was raised

An example:
  fuse-lightning fit --print_config > run.yaml
  fuse-lightning wiring --config run.yaml
  fuse-lightning fit --config run.yaml
  fuse-lightning test --config run.yaml
"""

_CONFIGURATION = """\
configuration
  -c, --config FILE     the configuration; may be given several times, later files go before earlier ones
  --KEY VALUE           any key of the configuration by its dotted path: --trainer.max_epochs 5,
                        --model.init_args.losses.cls.init_args.weight 0.5
  --print_config        print the whole configuration, defaults and all, and stop{starting_point}
  --help_all            list every option there is

run
  --run_dir DIR         where everything of the run is written and read (default: runs/default)
  --seed_everything N   the seed of every random number
"""

_CHECKPOINT = """\
  --ckpt_path WHICH     a checkpoint's path, or best or last of the run folder, or untrained for the weights as
                        constructed (default: best, and where there is none, last). Where several are the best,
                        give the path
"""

_EVALUATE = (
    "usage: fuse-lightning {0} --config FILE [options]\n\n{1}\n\n"
    + _CONFIGURATION.format(starting_point="")
    + _CHECKPOINT
)

COMMAND_HELP = {
    "fit": "usage: fuse-lightning fit --config FILE [options]\n\nTrain.\n\n"
    + _CONFIGURATION.format(starting_point=";\n                        without --config, a commented one to start from")
    + """\
  --ckpt_path WHICH     continue from a checkpoint: its path, or last for that of the run folder; one of another folder
                        starts a new run
  --overwrite           replace what an earlier run wrote to the run folder
""",
    "validate": _EVALUATE.format("validate", "Compute the losses and metrics of the validation data."),
    "test": _EVALUATE.format("test", "Compute the losses and metrics of the test data."),
    "predict": _EVALUATE.format("predict", "Predict, and write predictions.csv to the run folder, a row per sample.")
    + "  --overwrite           replace predictions.csv\n",
    "wiring": "usage: fuse-lightning wiring --config FILE [options]\n\n"
    "Take a batch of each loader and follow the keys from component to component: a table and a Mermaid drawing for\n"
    "training, validation, test and prediction, those that are alike together.\n"
    "The exit code is 1 where a key is missing.\n\n"
    + _CONFIGURATION.format(starting_point="")
    + """
output
  --output FILE         write it to a Markdown file too
""",
    "template": """\
usage: fuse-lightning template DIR [--style STYLE]

Write the walkthrough as a project of your own, to run and to edit.

  DIR                   the new project's folder; it must be empty or not exist
  --style STYLE         ready-made uses LightningModuleDefault, custom writes a LightningModule from the step functions
                        (default: ready-made)
""",
}
