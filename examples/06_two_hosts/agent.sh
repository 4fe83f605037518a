#!/bin/sh
# Stands in for ssh: agent.sh HOST COMMAND... runs the command on a host of two_hosts.sh, in its network and under its name.
host=$1
shift
if [ "$GDN_HOSTS" = namespaces ]; then
  exec ip netns exec "$host" unshare --uts sh -c "hostname $host; $*"
fi
# Daemons on one machine each want a folder of their own.
TMPDIR=$(mktemp -d "$GDN_FOLDER/$host.XXXX")
export TMPDIR
exec sh -c "$*"
