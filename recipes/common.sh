# The stages of every recipe. arena_cpu.sh and arena_gpu.sh set the sizes and source this file.
# shellcheck shell=bash disable=SC2154
usage="usage: bash $0 OUT [--max-minutes M] [--collect FOLDER] [--smoke-test]"
stages="recording frames tokenizer all_recordings tokens world evaluation prompts"
out='' collect='' max_minutes=''
smoke_test=${SMOKE:-}
python=${PYTHON:-python3}
workers=${WORKERS:-$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)}

fail() {
  echo "$1" >&2
  exit 2
}

while (($#)); do
  case $1 in
    --max-minutes) max_minutes=${2-} && shift ;;
    --collect) collect=${2-} && shift ;;
    --smoke-test) smoke_test=1 ;;
    -*) fail "unknown option $1; $usage" ;;
    *) out=$1 ;;
  esac
  shift || fail "a value is missing; $usage"
done
[[ $out ]] || fail "$usage"
[[ ! $max_minutes || $max_minutes =~ ^[0-9]*[1-9][0-9]*(\.[0-9]+)?$ ]] || fail "--max-minutes is $max_minutes, expected 1 or more"
mkdir -p "$out/stamps" ${collect:+"$collect"} || exit 2

name=$preset first=0 steps=600 alignment=strict threads=()
sizes=(--preset "$preset")
[[ ! ${THREADS:-} ]] || threads=(--threads "$THREADS")
if [[ $smoke_test ]]; then
  name=smoke-test first=16 steps=90 episodes=4 tokenizer_episodes=3 edited=1 alignment=warn sizes=() evaluation_minutes=0
  tokenizer_config=$recipes/smoke_test_tokenizer.json
  world_config=$recipes/smoke_test_world.json
  evaluation_flags+=(--config "$recipes/smoke_test_evaluation.json")
fi
last=$((first + episodes - 1))

playloom() { "$python" -m playloom "$@"; }

# -- One session: time limit and exit ---------------------------------------------------------------------------------

worked='' recorder=''
budget=$(awk -v m="${max_minutes:-1e6}" 'BEGIN { printf "%d", 58 * m }') # two seconds per minute are reserved for the exit
left() { echo $((budget - SECONDS)); }

finish() {
  [[ ! $recorder ]] || kill "$recorder" 2>/dev/null || true
  wait
  [[ ! $collect ]] || collect_results
}
trap finish EXIT

session_over() {
  echo "the session's time is over: run the same command again to continue in $out"
  exit 3
}

# Run a resumable playloom command within the remaining time.
limited() {
  local code=0
  if [[ $max_minutes ]]; then
    (($(left) > 5)) || session_over
    timeout --foreground --signal=INT --kill-after=30 "$(left)" "$python" -m playloom "$@" || code=$?
  else
    playloom "$@" || code=$?
  fi
  case $code in
    0) ;;
    3 | 124) session_over ;;
    *) exit "$code" ;;
  esac
}

# train TASK OPTION...: train, and save 20 seconds before the session's end.
train() {
  local limit=()
  if [[ $max_minutes ]]; then
    (($(left) > 30)) || session_over
    limit=(--max-minutes "$(awk -v s="$(left)" 'BEGIN { printf "%.2f", (s - 20) / 60 }')")
  fi
  limited train "$@" "${threads[@]}" "${limit[@]}"
}

# stage NAME SETTINGS COMMAND...: run a stage, unless its stamp has the same settings. Later stages then run again.
stage() {
  local name=$1 settings=$2 later
  shift 2
  if [[ -f $out/stamps/$name && $(<"$out/stamps/$name") == "$settings" ]]; then return; fi
  for later in $name ${stages#*"$name"}; do rm -f "$out/stamps/$later"; done
  echo "stage $name"
  "$@"
  printf '%s' "$settings" >"$out/.stamp" && mv "$out/.stamp" "$out/stamps/$name"
  worked=1
}

# -- The stages -----------------------------------------------------------------------------------------------------

# record COUNT: record the first COUNT episodes. `--hours` is rounded up to whole episodes, so half an episode is subtracted.
record_options() {
  options=(--out "$out/recordings" --seed "$first" --steps "$steps")
  options+=(--hours "$(awk -v n="$1" -v s="$steps" 'BEGIN { printf "%.6f", (n - 0.5) * s / 36000 }')")
}
record() {
  record_options "$1"
  limited record "${options[@]}" --processes "$workers"
}

# link FOLDER SEED...: link some of the recordings into a folder.
link() {
  local folder=$out/$1 seed ending
  shift
  mkdir -p "$folder"
  for seed in "$@"; do
    for ending in npz json; do ln -sf "../recordings/$(printf 'arena-%08d' "$seed").$ending" "$folder/"; done
  done
}

make_frames() {
  # shellcheck disable=SC2046
  link tokenizer_recordings $(seq "$first" $((first + tokenizer_episodes - 1)))
  limited train tokenizer "${tokenizer[@]}" --workers "$workers" --prepare-only
}

train_tokenizer() {
  if ((beside)); then
    record_options "$episodes"
    "$python" -m playloom record "${options[@]}" --processes $((workers > 3 ? workers - 2 : 1)) >>"$out/recordings.log" 2>&1 &
    recorder=$!
  fi
  train tokenizer "${tokenizer[@]}"
  [[ ! $recorder ]] || kill "$recorder" 2>/dev/null || true
  wait
  recorder=''
}

# Of twenty seeds the nineteenth is for tests and the twentieth is held out. Link ten episodes of each.
evaluate() {
  [[ ! $worked || ! $max_minutes ]] || (($(left) > 60 * evaluation_minutes)) || session_over
  # shellcheck disable=SC2046
  link test_recordings $({ seq 18 20 "$last"; seq 19 20 "$last"; } | sort -n | head -n 20)
  playloom evaluate --model "$out/world/model" --data "$out/test_recordings" --cache-dir "$out/evaluation" \
    --update-card "${evaluation_flags[@]}" "${threads[@]}"
}

select_prompts() {
  rm -rf "${out:?}/prompts"
  playloom view "$out/evaluation/frames" --select-prompts "$([[ $smoke_test ]] && echo 1 || echo 4)" --out "$out/prompts"
}

# Copy the results without the ONNX graphs: at most eight files, two folders deep. Some transfer tools have a limit of 16 MiB
# per file.
collect_results() {
  local file extras=()
  if [[ -f $out/world/model/model.json ]]; then
    mkdir -p "$collect/model" && cp "$out"/world/model/{card.md,model.json,*.safetensors} "$collect/model/"
  elif [[ -f $out/tokenizer/tokenizer.json ]]; then
    mkdir -p "$collect/tokenizer" && cp "$out"/tokenizer/tokenizer.{json,safetensors} "$collect/tokenizer/"
  fi
  [[ ! -f $out/evaluation/evaluation.json ]] || cp "$out/evaluation/evaluation.json" "$collect/"
  for file in stamps prompts recordings.log tokenizer/card.md {tokenizer,world}/log.jsonl evaluation/{horizon,strip}.png; do
    [[ ! -e $out/$file ]] || extras+=("$file")
  done
  for file in tokenizer world; do
    [[ ! -d $out/$file/previews ]] || extras+=("$file/previews/$(basename "$(find "$out/$file/previews" -name '*.png' | sort | tail -n 1)")")
  done
  tar -czf "$collect/extras.tar.gz" -C "$out" "${extras[@]}"
  find "$collect" -type f -size +16383k -exec echo "note: more than 16 MiB:" {} \;
}

tokenizer=("${sizes[@]}" --config "$tokenizer_config" --data "$out/tokenizer_recordings" --out "$out/tokenizer")
world=("${sizes[@]}" --name "$name" --config "$world_config" --data "$out/recordings" --tokenizer "$out/tokenizer" --out "$out/world" --edited "$edited" --alignment "$alignment")

stage recording "$tokenizer_episodes $steps" record "$tokenizer_episodes"
stage frames "$tokenizer_episodes $steps" make_frames
stage tokenizer "$preset $(<"$tokenizer_config")" train_tokenizer
stage all_recordings "$episodes $steps" record "$episodes"
stage tokens "$episodes $edited" limited train world "${world[@]}" --workers "$workers" --prepare-only
stage world "$preset $(<"$world_config")" train world "${world[@]}"
stage evaluation "${evaluation_flags[*]}" evaluate
stage prompts "" select_prompts
echo "done: $out/world/model"
