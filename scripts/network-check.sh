#!/usr/bin/env bash
# Trains on two hosts that are network namespaces of this machine, joined by a link of three speeds: the weights must be those
# of one process, and a step should take what 'taper plan' predicts. What of the communication hides behind computing is the
# run's own figure (communication_hidden in metrics.jsonl, the median). Needs root, iproute2, and build/taper, build/bench_ranks.
#   scripts/network-check.sh                       at 1 Gbit/s, 300 Mbit/s and 100 Mbit/s
#   scripts/network-check.sh 2gbit 50mbit          at others
#   DELAY=2ms scripts/network-check.sh             and with this delay, where the kernel has netem
# The link that the plan is given is what bench_ranks measures of it. Prints a table in Markdown.
set -euo pipefail
cd "$(dirname "$0")/.."
[ "${1:-}" != --help ] || { sed -n '2,/^set/{s/^# //p}' "$0"; exit 0; }
[ "$(id -u)" -eq 0 ] || { echo "scripts/network-check.sh: only root may make network namespaces." >&2; exit 2; }
for program in build/taper build/bench_ranks; do
  [ -x "$program" ] || { echo "scripts/network-check.sh: there is no $program; build with -DTAPER_BENCH=ON." >&2; exit 2; }
done
rates=("$@")
[ ${#rates[@]} -gt 0 ] || rates=(1gbit 300mbit 100mbit)
work=$PWD/.cache/network-check
configuration=recipes/configurations/tiny-resnet.toml
batch=32
settings=(--set 'stages=["baseline"]' --set network.width=32 --set baseline.steps=30 --set baseline.evaluate_every=30
  --set baseline.checkpoint_every=30 --set baseline.batch_size=$batch)
hosts=(taper-a taper-b)
subnet=10.77.0

clean_up() { for host in "${hosts[@]}"; do ip netns del "$host" 2>/dev/null || true; done; }
trap clean_up EXIT
clean_up
rm -rf "$work"
mkdir -p "$work"

for i in 0 1; do
  ip netns add "${hosts[i]}"
  ip -n "${hosts[i]}" link set lo up
done
ip link add veth0 netns "${hosts[0]}" type veth peer name veth0 netns "${hosts[1]}"
for i in 0 1; do
  ip -n "${hosts[i]}" addr add "$subnet.$((i + 1))/24" dev veth0
  ip -n "${hosts[i]}" link set veth0 up
done

# What mpirun calls instead of ssh: a command on a host, by its name.
cat >"$work/remote" <<'REMOTE'
#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
host=$1
shift
exec ip netns exec "$host" unshare --uts bash -c 'hostname "$0"; eval "$1"' "$host" "$*"
REMOTE
chmod +x "$work/remote"

on_both() {  # on_both COMMAND...: one rank on each host, started from the first
  ip netns exec "${hosts[0]}" unshare --uts bash -c 'hostname "$0"; exec "$@"' "${hosts[0]}" \
    mpirun --allow-run-as-root -n 2 --host "${hosts[0]},${hosts[1]}" --map-by node --bind-to none \
    --mca plm_rsh_agent "$work/remote" --mca oob_tcp_if_include $subnet.0/24 \
    --mca btl self,tcp --mca btl_tcp_if_include $subnet.0/24 "$@"
}

train() {  # train OUTPUT [LAUNCHER]: prints the weights' hash
  "${@:2}" build/taper train $configuration --output "$work/$1" "${settings[@]}" 2>"$work/$1.log"
  sha256sum "$work/$1"/checkpoints/step-*/weights.safetensors | tail -n 1 | cut -d' ' -f1
}

one=$(train one)
failed=0
echo '| link | as bench_ranks sees it | bits of one process | ms a step | predicted | error | communication | hidden |'
echo '| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |'
for rate in "${rates[@]}"; do
  for host in "${hosts[@]}"; do
    tc -n "$host" qdisc replace dev veth0 root handle 1: tbf rate "$rate" burst 256kb latency 100ms
    [ -z "${DELAY:-}" ] || tc -n "$host" qdisc replace dev veth0 parent 1: netem delay "$DELAY"
  done
  link=$(on_both build/bench_ranks --largest 4 --repetitions 5 --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["link"])')
  two=$(train "$rate" on_both)
  same=yes
  [ "$one" = "$two" ] || { same=NO; failed=1; }
  build/taper plan $configuration --ranks 2 --per-node 1 --link "$link" --json "${settings[@]}" >"$work/$rate.json"
  python3 - "$work/$rate" "$rate" "$link" "$same" $batch <<'PYTHON'
import json, statistics, sys
run, rate, link, same, batch = sys.argv[1:]
steps = [event for event in map(json.loads, open(run + "/metrics.jsonl")) if event["event"] == "train"]
measured = 1e3 * int(batch) / steps[-1]["images_per_s"]
predicted = 1e3 * json.load(open(run + ".json"))["predictions"][0]["step_s"]
communication = statistics.median(event["communication_s"] for event in steps)
hidden = statistics.median(event["communication_hidden"] for event in steps)
print(f"| {rate} | {link} | {same} | {measured:.1f} | {predicted:.1f} | {100 * (predicted / measured - 1):+.0f} % "
      f"| {1e3 * communication:.1f} ms | {100 * hidden:.0f} % |")
PYTHON
done
exit $failed
