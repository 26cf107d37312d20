#!/usr/bin/env bash
# Makes a machine train one run, and go on with it whenever it starts anew. User data of the aws launcher, which puts its
# settings behind the first line; or by hand:
#
#     DBR_HOME=s3://bucket/dog DBR_SERVICE=foreground ./startup.sh prepare
#     /opt/dbr/venv/bin/python -m pip install -c constraints.txt torch && /opt/dbr/venv/bin/python -m pip install -c constraints.txt .
#     DBR_HOME=s3://bucket/dog DBR_SERVICE=foreground ./startup.sh
#
#   startup.sh            prepare, then train: as a systemd service where systemd and root are there, else right here
#   startup.sh prepare    the stage, the Python environment and the package; what is done already is passed over
#   startup.sh train      wait while a notice holds, then `dbr supervise` in place of this shell; its exit code is ours
#   startup.sh ended      by the service: after an end that nobody restarts, see to it that the machine was given back
#
# Killed anywhere and run again it ends the same: each step looks first, and leaves its mark last.
#
# DBR_HOME                       home of the run: s3://BUCKET/NAME, or a folder
# DBR_WORDS                      words behind `dbr`, quoted for a shell; without: supervise DBR_HOME
# DBR_WHEEL, DBR_WHEEL_SHA256    the package, by its key in the home; without: what the environment has already
# DBR_CONSTRAINTS, …_SHA256      the versions that it was tested with, likewise
# DBR_EXTRAS                     extras of the package, such as prodigy
# DBR_S3_PATH_STYLE              yes: ENDPOINT/BUCKET, no: BUCKET.ENDPOINT; without: as boto3 does it for the endpoint
# DBR_HF_TOKEN_PARAMETER         name in AWS Systems Manager's Parameter Store of the Hugging Face token, if one is needed
# DBR_GROUP                      Auto Scaling group to set to 0 where this machine is of no use
# DBR_ROOT, DBR_STAGE            where all this lies (/opt/dbr); the fast disk (found and mounted by itself)
# DBR_SERVICE                    auto, systemd or foreground
set -euo pipefail

root=${DBR_ROOT:-/opt/dbr}
# What a service was set up with; what is set now wins.
# shellcheck source=/dev/null
[[ ! -f $root/settings ]] || . "$root/settings"
: "${DBR_HOME:?names the home of the run, such as s3://bucket/dog}"
venv=$root/venv
user=dbr
come_back=75

say() { echo "startup.sh: $*" >&2; }

retry() { # WHAT COMMAND…: again after growing waits, some ten minutes in all
    local what=$1 wait
    shift
    # shellcheck disable=SC2086  # a list of words
    for wait in ${DBR_WAITS:-2 4 8 15 30 60 120 180 180}; do
        "$@" && return
        say "$what failed. Trying again in $wait s."
        sleep "$wait"
    done
    "$@" || { say "$what failed for good."; return 1; }
}

stage_folder() { # the fastest disk that there is: prints its folder, and mounts it first if need be
    local disk mount=${DBR_MOUNT:-/mnt/dbr}
    if [[ -n ${DBR_STAGE:-} ]]; then
        echo "$DBR_STAGE"
        return
    fi
    # Where AWS's Deep Learning AMIs mount it by themselves.
    if mountpoint -q /opt/dlami/nvme; then
        echo /opt/dlami/nvme/dbr
        return
    fi
    for disk in ${DBR_DISKS:-/dev/disk/by-id/nvme-Amazon_EC2_NVMe_Instance_Storage_*}; do
        [[ -e $disk && $disk != *-part* ]] || continue
        if ! mountpoint -q "$mount"; then
            # Only a disk on which nothing at all is found is made anew: blkid says so with 2.
            local found=0
            blkid -p "$disk" > /dev/null || found=$?
            if [[ $found -eq 2 ]]; then mkfs.ext4 -q "$disk" >&2 || continue; fi
            mkdir -p "$mount"
            mount -o noatime "$disk" "$mount" || continue
        fi
        echo "$mount/stage"
        return
    done
    echo "$root/stage"
}

make_environment() {
    [[ ! -f $venv/.made ]] || return 0
    local python=${DBR_PYTHON:-python3}
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { say "Python 3.11 or newer is needed."; return 1; }
    # Debian and Ubuntu ship python3 without ensurepip.
    "$python" -c 'import ensurepip' 2> /dev/null || {
        apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y python3-venv
    } || return 1
    rm -rf "$venv"
    "$python" -m venv "$venv" && touch "$venv/.made"
}

fetch() { # KEY SHA256 FILE: complete and of that digest, or absent
    local part=$3.part
    is_of_digest "$2" "$3" && return
    if [[ $DBR_HOME == s3://* ]]; then
        "$venv/bin/python" - "$DBR_HOME/$1" "$part" << 'PYTHON' || return 1
import os
import sys
import boto3
from botocore.config import Config
bucket, _, key = sys.argv[1].removeprefix("s3://").partition("/")
style = {"yes": "path", "no": "virtual"}.get(os.environ.get("DBR_S3_PATH_STYLE", ""), "auto")
boto3.client("s3", config=Config(s3={"addressing_style": style})).download_file(bucket, key, sys.argv[2])
PYTHON
    else
        cp "$DBR_HOME/$1" "$part" || return 1
    fi
    is_of_digest "$2" "$part" || { say "$1 is not what was launched (SHA-256 differs)."; return 1; }
    mv "$part" "$3"
}

is_of_digest() { echo "$1  $2" | sha256sum --check --status 2> /dev/null; }

has_dbr() { "$venv/bin/python" -c 'import dreambooth_resume' 2> /dev/null; }

pip() { "$venv/bin/python" -m pip --quiet --disable-pip-version-check --no-input "$@"; }

install_package() {
    if [[ -z ${DBR_WHEEL:-} ]]; then
        has_dbr || say "dbr is not installed: name its wheel in the home (DBR_WHEEL), or $venv/bin/python -m pip install it."
        return 0
    fi
    local wheel=$root/${DBR_WHEEL##*/} constraints=$root/constraints.txt
    local mark=$venv/.installed-$DBR_WHEEL_SHA256-$DBR_CONSTRAINTS_SHA256
    [[ ! -f $mark ]] || return 0
    "$venv/bin/python" -c 'import boto3' 2> /dev/null || retry "Installing boto3" pip install boto3 || return 1
    retry "Reading $DBR_HOME/$DBR_WHEEL" fetch "$DBR_WHEEL" "$DBR_WHEEL_SHA256" "$wheel" || return 1
    retry "Reading $DBR_HOME/$DBR_CONSTRAINTS" fetch "$DBR_CONSTRAINTS" "$DBR_CONSTRAINTS_SHA256" "$constraints" || return 1
    # torch first and alone, so that nothing else can choose another build of it.
    retry "Installing torch" pip install -c "$constraints" torch || return 1
    retry "Installing dbr" pip install -c "$constraints" "$wheel${DBR_EXTRAS:+[$DBR_EXTRAS]}" || return 1
    # pip takes an equal version for the same package; the digest is what counts.
    retry "Installing dbr" pip install --no-index --no-deps --force-reinstall "$wheel" || return 1
    touch "$mark"
}

prepare() {
    mkdir -p "$root"
    local stage
    stage=$(stage_folder)
    mkdir -p "$stage"
    if [[ $EUID -eq 0 ]] && id "$user" > /dev/null 2>&1; then chown "$user" "$stage"; fi
    echo "$stage" > "$root/stage-folder"
    if retry "Making the Python environment" make_environment && install_package; then return; fi
    give_up "This machine can't be prepared."
}

give_up() { # WHY: nobody watches, and the machine costs money; so the launcher's group makes no other like it
    say "$1 The lines above say more."
    if [[ -n ${DBR_GROUP:-} ]]; then
        tell_the_home "$1" || say "The home could not be told."
        group_to_zero
    fi
    exit "$come_back"
}

# What is needed to give a machine back goes without Python too: that may be what could not be prepared.
has_boto3() { "$venv/bin/python" -c 'import boto3' 2> /dev/null; }
has_aws() { command -v aws > /dev/null; }

tell_the_home() { # WHY: goes where `dbr logs` looks, by the time of day as supervisors' output does
    local random key told
    told=$(mktemp) || return 1
    { tail -q -n 50 "$root/startup.log" "$root/output.log" 2> /dev/null || true; echo "$1"; } > "$told" || return 1
    read -r random < /proc/sys/kernel/random/uuid
    random=${random//-/}
    key=$DBR_HOME/output/$(printf %016x "$(date +%s%N)")${random:0:16}/00001.txt
    if has_boto3; then
        "$venv/bin/python" -c 'import sys, boto3
bucket, _, key = sys.argv[1].removeprefix("s3://").partition("/")
boto3.client("s3").upload_file(sys.argv[2], bucket, key)' "$key" "$told"
        return
    fi
    { has_aws && aws s3 cp --quiet "$told" "$key"; } \
        || signed s3 "/${key#s3://}" -X PUT -H 'Content-Type: text/plain' --data-binary "@$told" \
            -H "x-amz-content-sha256: $(sha256sum < "$told" | cut -d ' ' -f 1)"
}

group_to_zero() {
    retry "Setting the group $DBR_GROUP to 0" set_group_to_zero || say "It is paid for until you type: dbr stop $DBR_HOME"
}

set_group_to_zero() {
    if has_boto3; then
        # Unless this machine is to be kept: then the group makes no other by itself.
        "$venv/bin/python" - "$DBR_GROUP" << 'PYTHON'
import sys
import boto3
scaling = boto3.client("autoscaling")
for group in scaling.describe_auto_scaling_groups(AutoScalingGroupNames=sys.argv[1:])["AutoScalingGroups"]:
    if group["DesiredCapacity"] and "Launch" not in [one["ProcessName"] for one in group["SuspendedProcesses"]]:
        scaling.update_auto_scaling_group(AutoScalingGroupName=sys.argv[1], MinSize=0, MaxSize=0, DesiredCapacity=0)
PYTHON
        return
    fi
    { has_aws && aws autoscaling update-auto-scaling-group --auto-scaling-group-name "$DBR_GROUP" \
        --min-size 0 --max-size 0 --desired-capacity 0; } \
        || signed autoscaling / -d 'Action=UpdateAutoScalingGroup' -d 'Version=2011-01-01' \
            -d "AutoScalingGroupName=$DBR_GROUP" -d 'MinSize=0' -d 'MaxSize=0' -d 'DesiredCapacity=0' > /dev/null
}

signed() { # SERVICE PATH CURL'S WORDS…: asked by this machine's role, whose keys are in no command line
    local service=$1 path=$2 region=${AWS_DEFAULT_REGION:-${AWS_REGION:-}} keys
    shift 2
    keys=$(role_keys) || { say "The keys of this machine's role can't be read."; return 1; }
    curl -fsS -m 60 --aws-sigv4 "aws:amz:$region:$service" -K <(echo "$keys") "$@" \
        "${AWS_ENDPOINT_URL:-https://$service.$region.amazonaws.com}$path"
}

role_keys() { # as lines of curl's own configuration
    local of=/latest/meta-data/iam/security-credentials token role said
    token=$(metadata_token) && role=$(metadata "$token" "$of/") && said=$(metadata "$token" "$of/$role") || return 1
    echo "user = \"$(value AccessKeyId "$said"):$(value SecretAccessKey "$said")\""
    echo "header = \"x-amz-security-token: $(value Token "$said")\""
}

value() { sed -n "s/.*\"$1\" *: *\"\([^\"]*\)\".*/\1/p" <<< "$2"; }

ended() { # systemd says how. The supervisor gives the machine back by itself, unless it could not even read the home
    [[ -n ${DBR_GROUP:-} ]] || return 0
    # The service's TimeoutStopSec is all the time that there is.
    local stage DBR_WAITS=${DBR_WAITS:-2 4 8 15 30}
    stage=$(cat "$root/stage-folder" 2> /dev/null) || stage=$root
    case ${EXIT_CODE:-}-${EXIT_STATUS:-} in
        exited-0 | exited-2 | exited-7[6789]) group_to_zero ;;
        exited-75 | killed-TERM) rm -f "$stage/failed-starts" ;;
        *) count_failed_start "$stage" ;;
    esac
}

count_failed_start() { # STAGE: systemd makes another: that must not go on for ever for a bug of the supervisor's own
    local stage=$1 count started most=${DBR_FAILED_STARTS:-20}
    started=$(cat "$stage/started" 2> /dev/null || uptime_seconds)
    rm -f "$stage/started"
    count=$(cat "$stage/failed-starts" 2> /dev/null || echo 0)
    # In half an hour a run gets on: then this is the first in a row again.
    if (($(uptime_seconds) - started > 1800)); then count=0; fi
    count=$((count + 1))
    # Where not even that can be written down, nothing can be trained.
    echo "$count" > "$stage/failed-starts" || count=$most
    if ((count >= most)); then
        give_up "$most starts in a row ended like this one (${EXIT_CODE:-} ${EXIT_STATUS:-}): no more are made."
    fi
}

uptime_seconds() { cut -d . -f 1 /proc/uptime; }

metadata_token() { metadata '' /latest/api/token -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 21600'; }

metadata() { # TOKEN PATH CURL'S WORDS…
    local base=${AWS_EC2_METADATA_SERVICE_ENDPOINT:-http://169.254.169.254} token=$1 path=$2
    shift 2
    curl -fs -m 1 --noproxy '*' -H "X-aws-ec2-metadata-token: $token" "$@" "$base$path"
}

hold() { # nothing is started on a machine that is about to go: until that is withdrawn, or the machine is gone
    local token told=
    token=$(metadata_token) || return 0
    while is_told_to_go "$token"; do
        [[ -n $told ]] || say "AWS takes this machine away: nothing is started until that is withdrawn."
        told=yes
        sleep "${DBR_HOLD_SECONDS:-5}"
    done
    [[ -z $told ]] || say "That was withdrawn."
}

is_told_to_go() {
    metadata "$1" /latest/meta-data/spot/instance-action -o /dev/null && return
    [[ $(metadata "$1" /latest/meta-data/autoscaling/target-lifecycle-state) == Terminated ]]
}

read_parameter() {
    "$venv/bin/python" -c 'import sys, boto3
print(boto3.client("ssm").get_parameter(Name=sys.argv[1], WithDecryption=True)["Parameter"]["Value"])' "$1"
}

train() {
    hold
    local stage
    stage=$(< "$root/stage-folder")
    if [[ -n ${DBR_HF_TOKEN_PARAMETER:-} ]]; then
        # Into this process's environment and nowhere else.
        HF_TOKEN=$(retry "Reading the parameter $DBR_HF_TOKEN_PARAMETER" read_parameter "$DBR_HF_TOKEN_PARAMETER") \
            || give_up "The parameter $DBR_HF_TOKEN_PARAMETER can't be read."
        export HF_TOKEN
    fi
    uptime_seconds > "$stage/started" || true
    # Models, caches and notes of this machine go to the fast disk; none of it is needed elsewhere.
    export HOME=$stage HF_HOME=${HF_HOME:-$stage/huggingface} XDG_CACHE_HOME=$stage/cache XDG_STATE_HOME=$stage/state
    cd "$stage"
    eval "set -- ${DBR_WORDS:-supervise \"\$DBR_HOME\"}"
    [[ $DBR_HOME != s3://* ]] || set -- "$@" --stage_dir "$stage/run"
    exec "$venv/bin/python" -m dreambooth_resume "$@"
}

hand_over() { # to systemd, which keeps it running, over a restart of the machine too
    local name
    id "$user" > /dev/null 2>&1 || useradd --system --no-create-home --shell /usr/sbin/nologin "$user"
    chown "$user" "$(< "$root/stage-folder")"
    [[ $0 -ef $root/startup.sh ]] || install -m 755 "$0" "$root/startup.sh"
    # DBR_NOTIFY may be a secret, and a proxy's address may hold one: nobody reads them but root and the service.
    rm -f "$root/settings.new"
    (umask 077 && : > "$root/settings.new")
    for name in ${!DBR_@} AWS_DEFAULT_REGION AWS_REGION "${!AWS_ENDPOINT_URL@}" AWS_CA_BUNDLE "${!PIP_@}" HTTPS_PROXY NO_PROXY; do
        [[ -z ${!name:-} ]] || printf '[[ -v %s ]] || export %s=%q\n' "$name" "$name" "${!name}"
    done > "$root/settings.new"
    chgrp "$(id -gn "$user")" "$root/settings.new"
    chmod 640 "$root/settings.new"
    mv "$root/settings.new" "$root/settings"
    "$venv/bin/python" -c 'import sys; from importlib.resources import files
sys.stdout.write((files("dreambooth_resume.infra") / "dbr.service").read_text())' \
        | sed "s#/opt/dbr#$root#g" > "${DBR_UNITS:-/etc/systemd/system}/dbr.service"
    systemctl daemon-reload
    systemctl enable dbr.service
    systemctl start --no-block dbr.service
    say "Training as the service dbr. Its output: tail -f $root/output.log"
}

is_for_systemd() {
    case ${DBR_SERVICE:-auto} in
        auto) [[ -d /run/systemd/system && $EUID -eq 0 ]] ;;
        systemd) true ;;
        *) false ;;
    esac
}

case ${1:-} in
    prepare)
        mkdir -p "$root"
        prepare 2> >(tee -a "$root/startup.log" >&2)
        ;;
    train) train ;;
    ended) ended ;;
    "")
        # 75 has given up already; anything else is an end that nobody has thought of, and the machine costs money all the same.
        bash "$0" prepare || { (($? == come_back)) && exit "$come_back"; give_up "This machine can't be prepared."; }
        if ! has_dbr; then
            [[ -z ${DBR_GROUP:-} ]] || give_up "The package is not there."
            exit 2
        fi
        if ! is_for_systemd; then train; fi
        set -E
        trap 'give_up "The service could not be set up."' ERR
        hand_over
        ;;
    *) say "takes prepare, train, ended, or nothing, and not $1"; exit 2 ;;
esac
