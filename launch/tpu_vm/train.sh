#!/usr/bin/env bash
# A run of `skald train` on every worker of a Cloud TPU VM, from your own machine. The run goes on when the connection
# is lost: look at it, or stop it, from anywhere.
#
#   export TPU=my-tpu ZONE=us-west4-a
#   bash launch/tpu_vm/train.sh start llama:8b --run-dir /mnt/shared/llama
#   bash launch/tpu_vm/train.sh log
#   bash launch/tpu_vm/train.sh stop
#
# --run-dir must lie on a folder that all workers share (Filestore, mounted at the same place on each). `start` copies
# what is committed in this checkout to all workers, and starting again goes on from the newest checkpoint.
set -euo pipefail

TPU=${TPU:?the name of the TPU VM}
ZONE=${ZONE:?its zone}
PROJECT=${PROJECT:-}         # empty: gcloud's own
FOLDER=${FOLDER:-skald}      # the checkout on each worker, in the home folder
CACHE=${CACHE:-}             # SKALD_CACHE; empty: each worker tokenizes for itself

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

vm() { gcloud compute tpus tpu-vm "$@" --zone "$ZONE" ${PROJECT:+--project "$PROJECT"}; }

on() { vm ssh "$TPU" --worker "$1" --command "$2"; } # $1: all, or a worker's number; $2: the command

start() {
  local archive command
  archive=$(mktemp)
  git -C "$here" archive --format tar.gz --output "$archive" HEAD
  vm scp "$archive" "$TPU:$FOLDER.tar.gz" --worker all
  rm "$archive"
  command="mkdir -p $FOLDER && tar -xzf $FOLDER.tar.gz -C $FOLDER && cd $FOLDER"
  command+=" && SKALD_EXTRA=tpu bash launch/local.sh configs >/dev/null" # the environment, before anything is started
  command+=" && { SKALD_CACHE=${CACHE:-\$HOME/.cache/skald} nohup .venv/bin/skald train$(printf ' %q' "$@")"
  command+=" >>train.log 2>&1 </dev/null & echo \$! >train.pid; }"
  on all "$command"
}

case "${1:-}" in
  start) shift && start "$@" ;;
  log) on 0 "tail -n 40 -f $FOLDER/train.log" ;; # worker 0 speaks for all
  errors) on all "tail -n 5 $FOLDER/train.log" ;;
  stop) on all "kill -TERM \$(cat $FOLDER/train.pid)" ;; # one would do: all stop at the same step, and save
  *) sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 2 ;;
esac
