#!/usr/bin/env bash
# A SLURM cluster of one node on this machine, for tests/test_slurm.py; as root, with
# Debian's slurmctld, slurmd, slurm-client and munge.
set -euo pipefail
node=$(hostname -s)
if sinfo --noheader >/dev/null 2>&1; then exit 0; fi
for command in slurmctld slurmd sbatch munged; do
  command -v "$command" >/dev/null || { echo "no $command on this machine"; exit 1; }
done
mkdir -p /run/munge /var/{lib,log}/munge /var/spool/slurm{ctld,d} /etc/slurm
chown -R munge: /run/munge /var/{lib,log}/munge /etc/munge
grep -qw "$node" /etc/hosts || echo "127.0.0.1 $node" >> /etc/hosts
{
  echo ClusterName=tests
  echo "SlurmctldHost=$node(127.0.0.1)"
  printf '%s=root\n' SlurmUser SlurmdUser
  echo AuthType=auth/munge
  # Nothing of the kernel is needed: no control groups, no accounting.
  echo ProctrackType=proctrack/linuxproc
  echo TaskPlugin=task/none
  echo JobAcctGatherType=jobacct_gather/none
  echo MpiDefault=none
  echo SelectType=select/cons_tres
  echo SelectTypeParameters=CR_Core
  echo ReturnToService=2
  # A job that is over its time has so long to stop.
  echo KillWait=60
  echo OverTimeLimit=0
  echo StateSaveLocation=/var/spool/slurmctld
  echo SlurmdSpoolDir=/var/spool/slurmd
  # Two GPUs that are numbers alone: scripts ask for them.
  echo GresTypes=gpu
  echo "NodeName=$node NodeAddr=127.0.0.1 CPUs=$(nproc) Gres=gpu:2 State=UNKNOWN"
  # Who comes by the second partition sends away whom it meets, after SIGTERM.
  echo PreemptType=preempt/partition_prio
  echo PreemptMode=REQUEUE
  echo "PartitionName=main Nodes=$node Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:8 PriorityTier=1 GraceTime=60"
  echo "PartitionName=urgent Nodes=$node MaxTime=INFINITE State=UP PriorityTier=2"
} > /etc/slurm/slurm.conf
touch /var/spool/slurmd/gpu{0,1}
echo "Name=gpu File=/var/spool/slurmd/gpu[0-1]" > /etc/slurm/gres.conf
pgrep -x munged >/dev/null || su munge -s /bin/sh -c "$(command -v munged)"
slurmctld
slurmd
for _ in $(seq 20); do
  sinfo --noheader 2>/dev/null | grep -qE "idle|mix|alloc" && exit 0
  sleep 0.5
done
echo "SLURM does not answer"; exit 1
