"""What `hyper-meta COMMAND --help` teaches below the list of arguments."""

OVERRIDES = """\
Every setting of the config file can be overridden, in its own type; the file explains them all:
  --config.hyperldm.guidance_scale=2
  --config.hnet.inner_learning_rate=0.1
  --config.evaluate.guidance_scales=0,1,2
"""

MAIN = """\
from nothing to a generated network:
  hyper-meta run --config configs/quickstart.py --workdir runs/quickstart
  hyper-meta generate --workdir runs/quickstart \\
      --task "Which colour does the seven have?" --samples 8 --out seven.safetensors
  hyper-meta predict --weights seven.safetensors --answers red,green,blue scene1.png scene2.png

hyper-meta COMMAND --help shows more examples.
"""

RUN = """\
examples:
  hyper-meta run --config configs/quickstart.py --workdir runs/quickstart

  the same with another seed and a fixed guidance scale, in a work directory of its own:
  hyper-meta run --config configs/quickstart.py --workdir runs/seed1 \\
      --config.seed=1 --config.hyperldm.guidance_scale=2

  go on with a run that was stopped, its configuration is in its work directory:
  hyper-meta run --workdir runs/quickstart

Stop it with Ctrl-C whenever you like: it saves where it is, and the same command goes on.

"""

STEP = """\
examples:
  hyper-meta {step} --config configs/quickstart.py --workdir runs/quickstart

  on a run that is there already, what is finished is only restored:
  hyper-meta {step} --workdir runs/quickstart

"""

TRAIN = """\
examples:
  hyper-meta train --config configs/quickstart.py --workdir runs/quickstart

  one method with what it needs, and no other:
  hyper-meta train --workdir runs/quickstart --method hnet_hyperldm

"""

PREPARE = """\
examples:
  hyper-meta prepare --config configs/meta_vqa.py --data-dir data
  hyper-meta run --config configs/meta_vqa.py --config.data_dir=data --workdir runs/meta_vqa

  with files that were downloaded elsewhere, and another encoder:
  hyper-meta prepare --config configs/meta_vqa.py --data-dir data --manual-dir ~/downloads \\
      --config.encoder=openai/clip-vit-base-patch32

It says first which files it needs, how large they are, and whether they fit on the disk. Stop it
whenever you like: the same command goes on. What is downloaded is checked by its SHA-256.

"""

PRETRAIN = """\
example:
  hyper-meta pretrain --config configs/encoder.py --workdir runs/encoder --out runs/digits_clip

  then use it in place of the bundled one:
  hyper-meta run --config configs/quickstart.py --workdir runs/own_encoder \\
      --config.encoder=runs/digits_clip

Every setting of the config file can be overridden, in its own type: --config.num_steps=100
"""

GENERATE = """\
examples:
  hyper-meta generate --workdir runs/quickstart \\
      --task "Which colour does the seven have?" --samples 8 --out seven.safetensors

  keep closer to the sentence, and say how answers are to be read:
  hyper-meta generate --workdir runs/quickstart --task "Which colour does the seven have?" \\
      --guidance-scale 4 --template "the seven is {}" --out seven.safetensors

in Python:
  from hyper_meta.generation.generate import generate, load_model, save_weights
  model = load_model("runs/quickstart")
  save_weights("seven.safetensors", generate(model, "Which colour does the seven have?"))
"""

PREDICT = """\
examples:
  hyper-meta predict --weights seven.safetensors --answers red,green,blue scene1.png scene2.png

  hyper-meta predict --weights seven.safetensors --answers red,green,blue \\
      --template "the colour is {}" photos/*.jpg

in Python:
  from hyper_meta.generation.generate import load_weights, predict
  predict(load_weights("seven.safetensors"), ["scene1.png"], answers=["red", "green", "blue"])
"""

COMPARE = """\
examples:
  hyper-meta compare runs/quickstart runs/seed1

  only some rows, as the table of the report names them:
  hyper-meta compare runs/quickstart runs/seed1 --rows "HNet, multitask" "HNet-MAML"

  a row of B against another row of A (A and B may be one run):
  hyper-meta compare runs/quickstart runs/quickstart \\
      --rows "HNet-MAML" --against "HNet, multitask"

Tasks are matched by their sentence. Right answers are averaged over the seeds of a run first; the
intervals are 95% bootstrap intervals over tasks and say nothing about another seed.
"""

BENCHMARK = """\
examples:
  hyper-meta benchmark --config configs/benchmark.py --out benchmark.json

  two kinds of work only, at other sizes:
  hyper-meta benchmark --config configs/benchmark.py --only hyperldm ddim \\
      --config.hyperldm.hidden_dim=256

Everything is timed warm, three times or for 20 seconds, and the median counts. The columns: work a
second; the floating-point operations of its matrix products a second, and that as a share of the
speed of one large matrix product here; the bytes of those products' operands and results; memory
at its peak; programs compiled the first time and later; seconds of compilation.

"""

SWEEP = """\
examples:
  hyper-meta sweep --config configs/quickstart.py --workdir runs/sweep \\
      --grid hyperldm.drop_rate=0.1,0.2 --grid hyperldm.hidden_dim=128,256 \
      --row "HNet + HyperLDM"

  alternatives of a setting that is a tuple are separated by semicolons; two rows of the report:
  hyper-meta sweep --config configs/quickstart.py --workdir runs/sweep_rates \\
      --grid "hyperldm.learning_rates=0.001;0.0003,0.001" --config.num_seeds=2 \\
      --row "HNet + HyperLDM" --row "HNet + HyperLDM, mean of logits"

Every combination is a run in a folder of the work directory. What a setting does not touch is
trained once. Stop it with Ctrl-C whenever you like: the same command goes on, and one with more
values only runs what is new. Choose by the validation tasks, that is what they are for.

"""
