#!/bin/bash
# Prépare un corpus sur un groupe de machines : TASKS=64 deploy/slurm/prepare.sh TEXTES… --out DOSSIER …
# Les tâches, la réunion, les tâches, la réunion : sans étape qui compare les documents, les deux
# derniers tours ne trouvent rien à faire. Textes et dossier sont sur un disque partagé.
set -euo pipefail

export TASKS=${TASKS:?"donnez le nombre de tâches : TASKS=64"}
JOB=$(dirname "$0")/prepare.sbatch
AFTER=()
for _ in 1 2; do
    # --kill-on-invalid-dep : une tâche en échec annule la suite, qu'il suffit de relancer.
    ID=$(sbatch --parsable "${AFTER[@]}" --export=ALL --array="1-$TASKS" "$JOB" "$@")
    ID=${ID%%;*}  # des Slurm fédérés ajoutent « ;GROUPE »
    ID=$(MERGE=1 sbatch --parsable --export=ALL --dependency="afterok:$ID" --kill-on-invalid-dep=yes "$JOB" "$@")
    ID=${ID%%;*}
    AFTER=(--dependency="afterok:$ID" --kill-on-invalid-dep=yes)
done
echo "La dernière réunion : $ID"
