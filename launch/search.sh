#!/usr/bin/env bash
# Searches the rates of every method on the validation tasks of one seed, a sweep each; patience finds
# the length.
#
#   bash launch/search.sh configs/digits_vqa.py runs/search                     # all, one after another
#   bash launch/search.sh configs/digits_vqa.py runs/search hnet conditional    # those named
#
# Every sweep has a folder of its own in the work directory, with its table in sweep.md. Options of
# `hyper-meta sweep` come last (--config.seed=1). The same command goes on where it was stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if (($# < 2)) || [[ $1 == -* ]]; then
  sed -n 's/^# \{0,1\}//p' "${BASH_SOURCE[0]}" | head -n 8
  exit 2
fi
config=$1 workdir=$2 names=() options=()
for argument in "${@:3}"; do
  if [[ $argument == -* ]]; then options+=("$argument"); else names+=("$argument"); fi
done

# search NAME METHODS ROWS GRID... [--config...]: a sweep, where it is asked for.
search() {
  local name=$1 methods=$2 rows=() grids=() row argument
  if ((${#names[@]})) && [[ " ${names[*]} " != *" $name "* ]]; then return; fi
  for row in $3; do rows+=(--row "$row"); done
  for argument in "${@:4}"; do
    if [[ $argument == --* ]]; then grids+=("$argument"); else grids+=(--grid "$argument"); fi
  done
  echo "search: $name"
  .venv/bin/hyper-meta sweep --config "$config" --workdir "$workdir/$name" "${rows[@]}" "${grids[@]}" \
    --config.methods="references,$methods" --config.num_seeds=1 \
    --config.evaluate.few_shot_steps=0,10 --config.evaluate.few_shot_rates=1,10 --config.evaluate.shots=1 \
    "${options[@]}"
}

# A stage ends 5 validations after its best.
long() { echo "--config.$1.num_steps=3520 --config.$1.chunk_steps=110 --config.$1.patience=5"; }

# Without language.
# shellcheck disable=SC2046
{
  search mnet mnet_multitask mnet_multitask "mnet.learning_rates=0.001;0.003;0.01;0.03" $(long mnet)
  search mnet_maml mnet_fomaml,mnet_maml "mnet_fomaml.adapted mnet_maml.adapted" \
    "mnet.learning_rates=0.001;0.003;0.01" $(long mnet)
  search hnet hnet_multitask hnet_multitask "hnet.learning_rates=0.0003;0.001;0.003" $(long hnet)
  search hnet_maml hnet_fomaml,hnet_maml "hnet_fomaml.adapted hnet_maml.adapted" \
    "hnet.learning_rates=0.0003;0.001;0.003" $(long hnet)

  # From the sentence.
  search conditional conditional conditional "conditional.learning_rates=0.0003;0.001;0.003;0.01" \
    $(long conditional)
  search film film film "film.learning_rates=0.001;0.003;0.01;0.03" $(long film)
  search conditional_tokens conditional_tokens conditional_tokens \
    "conditional_tokens.learning_rates=0.0003;0.001;0.002" $(long conditional_tokens)
  search film_tokens film_tokens film_tokens "film_tokens.learning_rates=0.0003;0.001;0.003" \
    $(long film_tokens)
  search hnet_language hnet_language "hnet_language hnet_language.adapted" \
    "language.learning_rates=0.0003;0.001;0.002" $(long language)
}
