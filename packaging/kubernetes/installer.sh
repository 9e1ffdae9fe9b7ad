#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Program of the pods that put kiln on each node, or take it away: installer.sh install|remove
# They are privileged, see the host's processes, and have the host's /opt/kiln in its place. A pod may be killed at any
# step: what counts gets its name when it is complete, and the next one takes up what it finds.
set -eu

place=/opt/kiln
payload=/kiln
own_config=/etc/kiln/kiln.yaml # of the ConfigMap, where there is one
label=kiln.io/runtime
unit=${CONTAINERD_UNIT:-containerd}
account=/var/run/secrets/kubernetes.io/serviceaccount
ready=/run/kiln-ready

say() { printf '%s\n' "$*"; }
fail() {
	say "error: $*"
	exit 1
}

on_host() { nsenter --target 1 --mount -- "$@"; }

# The label of this node: a JSON value, null takes it away.
set_label() {
	api=$KUBERNETES_SERVICE_HOST
	case $api in *:*) api="[$api]" ;; esac
	# In a file: command lines are for everybody to read.
	(umask 077 && printf 'header = Authorization: Bearer %s\n' "$(cat $account/token)" >/run/kiln-wgetrc)
	wget --config=/run/kiln-wgetrc --no-verbose --output-document=/dev/null --no-proxy --no-hsts --tries=3 --timeout=20 \
		--ca-certificate=$account/ca.crt --method=PATCH --header='Content-Type: application/merge-patch+json' \
		--body-data="{\"metadata\":{\"labels\":{\"$label\":$1}}}" \
		"https://$api:${KUBERNETES_SERVICE_PORT:-443}/api/v1/nodes/$NODE_NAME" || fail "set the label $label of node $NODE_NAME"
}

# Whether a pod runs from a version's directory: by its file, whatever the path in the pod's namespaces.
is_in_use() {
	shim=$(stat -c %d:%i "$1/containerd-shim-kiln-v2" 2>/dev/null) || return 1
	stat -L -c %d:%i /proc/[0-9]*/exe 2>/dev/null | grep -qxF "$shim"
}

# The directories of versions; `current` is a link.
versions() { find $place -mindepth 1 -maxdepth 1 -type d ! -name '.*'; }

# Removes the versions that no pod runs from, but for one; whether others are left.
prune() {
	left=1
	for version in $(versions); do
		[ "$version" != "$1" ] || continue
		if is_in_use "$version"; then
			left=0
		else
			mv "$version" $place/.old
			rm -rf $place/.old
		fi
	done
	return $left
}

# The directory's name says what is in it, so that a running pod keeps the files that it was started with.
put_files() {
	[ -e $own_config ] || own_config=$payload/kiln.yaml
	id=$({ cd $payload && find . -type f -exec sha256sum {} + | LC_ALL=C sort -k2 && sha256sum <"$own_config"; } |
		sha256sum | cut -c 1-12)
	here=$place/$id
	[ -d "$here" ] && return
	mkdir $place/.new
	cp -R $payload/. $place/.new
	cp "$own_config" $place/.new/kiln.yaml
	sync -f $place/.new
	mv $place/.new "$here"
	say "$here: put there"
}

check_host() {
	found=$(on_host "$here/kiln" --config "$here/kiln.yaml" check) || reason="this host cannot run kiln"
	say "$found"
	if ! grep -q '^backend: *qemu' "$here/kiln.yaml" && ! say "$found" | grep -q '^ok *kvm'; then
		reason="no hardware virtualization, and kiln.yaml does not ask for emulation (backend: qemu)"
	fi
	if [ -n "${reason:-}" ]; then
		set_label null
		fail "$reason"
	fi
}

restart_containerd() {
	on_host systemctl restart "$unit" || return 1
	rm -f $place/.restart
	say "$unit: restarted"
}

# Runs kiln, and says whether containerd has to be restarted: also when the pod before this one was killed in between.
change_containerd() {
	pending=false
	[ ! -e $place/.restart ] || pending=true
	: >$place/.restart
	out=$(on_host "$@") || fail "containerd's configuration is as it was"
	say "$out"
	case $out in *" written"* | *" removed"*) pending=true ;; esac
	$pending || rm -f $place/.restart
	$pending
}

take_back() {
	on_host "$here/kiln" uninstall containerd
	[ "${1:-}" != restart ] || on_host systemctl restart "$unit" || say "error: $unit does not start"
	rm -f $place/.restart
}

install() {
	put_files
	check_host
	if change_containerd "$here/kiln" --config "$here/kiln.yaml" install containerd --import; then
		if ! on_host containerd config dump | grep -q 'runtimes\.kiln\]'; then
			take_back
			fail "containerd cannot read its configuration with kiln's, which is gone again: see 'containerd config dump'"
		fi
		if ! restart_containerd; then
			take_back restart
			fail "$unit did not start with kiln's configuration, which is gone again"
		fi
	fi
	ln -sfn "$id" $place/.current
	mv -T $place/.current $place/current
	set_label '"true"'
	: >$ready
	say "node $NODE_NAME: ready, label $label=true"
	while :; do
		prune "$here" || :
		sleep 600
	done
}

# Pods first: without the handler containerd starts no container of theirs again.
remove() {
	set_label null
	for version in $(versions); do
		while is_in_use "$version"; do
			say "$version: waiting for the pods that run from it"
			sleep 10
		done
	done
	mkdir $place/.new
	cp -R $payload/kiln $payload/engines $place/.new
	if change_containerd $place/.new/kiln uninstall containerd; then
		restart_containerd || fail "$unit does not start"
	fi
	while prune ''; do sleep 10; done
	rm -rf $place/.new $place/.restart $place/.current $place/current
	on_host rmdir $place || say "$place: not empty, left"
	: >$ready
	say "node $NODE_NAME: nothing of kiln is left"
	exec sleep infinity
}

case ${1:-} in
install | remove) ;;
*) fail "usage: installer.sh install|remove" ;;
esac
rm -f $ready
# One at a time, also with what a killed one has started.
exec 9<$place
flock 9
rm -rf $place/.new $place/.old
"$1"
