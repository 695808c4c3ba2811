# Everything a developer or a CI machine needs, from a bare Debian or Ubuntu. `make help` lists the targets.
PYTHON   := /usr/bin/python3
PYTEST   := $(PYTHON) -m pytest
# What touches the machine (loop devices, mounts, containers) stays in one process: tests/conftest.py groups it.
PARALLEL := $(PYTEST) -n 2 --dist loadgroup
SUDO     := $(if $(filter 0,$(shell id -u)),,sudo)
RUFF     := ruff==0.17.5
MYPY     := mypy==2.4.1
ATHERIS  := atheris==3.0.0
TIME     := 60
BUILD    := build
# Root's home is another one: what was built as a user is found there too.
CACHED   := env XDG_CACHE_HOME=$(or $(XDG_CACHE_HOME),$(HOME)/.cache)
LOADER   := systemd-boot
CUTS     := 6

# What goes into the package: a change of any of these makes a new .deb and new images.
SOURCES  := $(shell find k8r_agent units tasks etc debian completion man -type f -not -name '*.pyc' \
              -not -path 'debian/k8r-*' -not -path 'debian/.debhelper/*' -not -name '*.substvars' \
              -not -name files -not -name '*.log' -not -name '*-stamp' 2>/dev/null) pyproject.toml

PACKAGES := python3 python3-venv python3-gi python3-pydbus python3-requests python3-psutil python3-pyudev python3-sh \
            python3-zstandard python3-tomli python3-pytest python3-pytest-xdist python3-hypothesis \
            python3-dbusmock python3-setuptools dbus gir1.2-glib-2.0 \
            build-essential debhelper dh-python go-md2man fakeroot dpkg-dev \
            mmdebstrap debian-archive-keyring dosfstools mtools fdisk gdisk e2fsprogs zstd xz-utils openssh-client \
            grub-common grub-efi-amd64-bin systemd-container \
            qemu-system-x86 qemu-utils ovmf dnsmasq-base iproute2 util-linux etcd-server etcd-client \
            shellcheck gpg openssl

.PHONY: help deps venv deb images image kubernetes demo bare-demo quick test matrix nodes watchdog plane e2e fuzz record sectors replay campaign lint bench clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  make %-10s %s\n", $$1, $$2}' Makefile

# etcd is here for its programs: tests start their own, this machine needs none that runs.
deps: $(BUILD)/.deps ## install what building and testing needs (apt)
$(BUILD)/.deps: Makefile
	@mkdir -p $(BUILD)
	@if missing=$$(tests/lab/missing-packages $(PACKAGES)) && [ -z "$$missing" ]; then :; else \
	  echo "installing: $$missing"; \
	  $(SUDO) apt-get update -q && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$missing && \
	  case " $$missing " in *" etcd-server "*) \
	    [ ! -d /run/systemd/system ] || $(SUDO) systemctl disable --now etcd.service;; esac; fi
	@touch $@

venv: .venv/.ready ## ruff and mypy in .venv (Debian's python, system packages visible)
.venv/.ready: Makefile | deps
	$(PYTHON) -m venv --system-site-packages .venv
	.venv/bin/pip install --quiet --disable-pip-version-check '$(RUFF)' '$(MYPY)'
	@touch $@

deb: $(BUILD)/debs/.done ## the Debian package, in build/debs
$(BUILD)/debs/.done: $(SOURCES) | deps
	tests/lab/make-deb $(BUILD)/debs
	@touch $@

images: $(BUILD)/.images ## two golden images, releases 1 and 2, as bundle and flashable disk
image: images
$(BUILD)/.images: $(BUILD)/debs/.done tests/lab/images.py
	$(SUDO) $(if $(K8R_KERNEL),env K8R_KERNEL=$(K8R_KERNEL)) $(PYTHON) -m tests.lab.images $(BUILD)
	@touch $@

kubernetes: deps ## a real Kubernetes from Debian's source, kept in ~/.cache/k8r-lab (4 min of two cores, once)
	$(PYTHON) -m tests.lab.kubernetes

$(BUILD)/.kubernetes-images: $(BUILD)/debs/.done $(wildcard tests/lab/kubernetes/*.*) tests/lab/kubernetes/crictl | kubernetes
	$(SUDO) $(CACHED) $(PYTHON) -m tests.lab.kubernetes.golden $(BUILD)
	@touch $@

demo: $(BUILD)/.kubernetes-images ## a control-plane node's whole life on a virtual machine
	$(SUDO) $(CACHED) $(PYTHON) -m tests.lab.demo $(BUILD) --kubernetes

bare-demo: images ## the same of a node without Kubernetes, in a third of the time (LOADER=grub)
	$(SUDO) $(PYTHON) -m tests.lab.demo $(BUILD) --loader=$(LOADER)

quick: venv ## a developer's loop: unit, contract and reduced crash tests, linters (< 3 min)
	$(PARALLEL) -m "not slow and not loop and not bus and not nspawn and not node" \
	  tests/unit tests/contract tests/crash tests/http tests/test_floors.py tests/test_linters.py

test: venv images kubernetes ## the whole ladder, up to virtual nodes with real reboots
	$(SUDO) $(CACHED) $(PARALLEL) --durations=15 -m "not long" tests --ignore=tests/node --ignore=tests/kube
	$(SUDO) $(CACHED) $(PYTEST) --durations=5 -m "not long" tests/node tests/kube

matrix: venv ## every crash and every failing write of every task, every pair of crashes of a reinstall (an hour)
	$(PARALLEL) -q -m slow tests/crash

nodes: images ## every story of the virtual nodes, also the long ones: GRUB, dead slots, twins, kernel updates
	$(SUDO) $(PYTEST) --durations=15 tests/node

plane: kubernetes ## the real control plane of Debian's Kubernetes on this host, with kubeadm's own files (part of `make test`)
	$(SUDO) $(CACHED) $(PYTEST) --durations=15 tests/contract/test_kubeadm_plane.py

e2e: $(BUILD)/.kubernetes-images ## a cluster of virtual nodes with it: init, join, reinstall, upgrade, power cuts
	$(SUDO) $(CACHED) $(PYTEST) --durations=15 tests/kube

# Recorded lives of virtual nodes: LOADER-TABLE. Each takes a quarter of an hour to make, and up to 4 GB.
RECORDS  := systemd-boot-gpt grub-gpt systemd-boot-dos
STATES   := 40
SEED     := 1

# Debian's cloud kernel has no driver for a hardware watchdog, its generic one has QEMU's.
watchdog: ## hangs ended by a hardware watchdog instead of the kernel's own
	$(MAKE) images BUILD=$(BUILD)/generic K8R_KERNEL=linux-image-amd64
	$(SUDO) env K8R_KERNEL=linux-image-amd64 K8R_BUILD=$(BUILD)/generic \
	  $(PYTEST) -k "image-hangs-systemd-boot or kernel_that_stopped" tests/node/test_dead.py

$(BUILD)/record/%/digests.json: | images
	$(SUDO) $(PYTHON) -m tests.lab.record $(BUILD) $(shell echo $* | sed 's/-\([a-z]*\)$$/ \1/')

record: $(RECORDS:%=$(BUILD)/record/%/digests.json) ## every write of a node's life, for `make sectors` and `make replay`

sectors: record ## judge every disk that a power cut could have left of the recorded lives, without booting it
	$(SUDO) $(PYTHON) -m tests.lab.sectors $(RECORDS:%=$(BUILD)/record/%)

replay: record ## boot STATES=n of those disks of each recorded life, and as many torn flashes (SEED=s; resumable)
	for record in $(RECORDS); do \
	  $(SUDO) $(PYTHON) -m tests.lab.reboots $(BUILD)/record/$$record --states $(STATES) --seed $(SEED) || exit 1; done
	$(SUDO) $(PYTHON) -m tests.lab.variables $(BUILD) --states $(STATES) --seed $(SEED)

fuzz: venv ## coverage-guided fuzzing of everything that reads foreign bytes, for TIME=60 seconds
	.venv/bin/pip install --quiet --disable-pip-version-check '$(ATHERIS)'
	.venv/bin/python -m tests.fuzz --time $(TIME)

campaign: images ## live power cuts at random moments: make campaign CUTS=60 SEED=1 [ONLY=17 | MINUTES=30]; goes on where it was
	$(SUDO) $(PYTHON) -m tests.lab.campaign $(BUILD) --cuts $(CUTS) --seed $(SEED) $(if $(ONLY),--only $(ONLY)) $(if $(MINUTES),--minutes $(MINUTES))

lint: venv ## ruff, mypy --strict, shellcheck and the house rules
	$(PYTEST) -q tests/test_floors.py tests/test_linters.py

bench: venv images ## figures: memory of a whole update, throughput
	$(SUDO) $(PYTHON) -m tests.bench.memory --work $(BUILD)
	$(SUDO) $(PYTHON) -m tests.bench.write --bundle $(BUILD)/release-1/bundle --work $(BUILD)/bench

clean: ## remove what was built (keeps the package caches)
	[ ! -d $(BUILD) ] || $(SUDO) find $(BUILD) -mindepth 1 -maxdepth 1 ! -name cache -exec rm -rf {} +
	$(SUDO) rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
