// SPDX-License-Identifier: Apache-2.0
#include "agent/container_factory.h"

#include "agent/container/pod.h"

namespace kiln::agent {
namespace {

class RealContainer : public GuestContainer {
 public:
  explicit RealContainer(std::unique_ptr<Container> container) : container_(std::move(container)) {}

  StartedProcess& init() override { return container_->init(); }
  Result<void> begin_start() override { return container_->begin_start(); }
  int start_fd() const override { return container_->start_fd(); }
  Result<void> finish_start() override { return container_->finish_start(); }
  Result<StartedProcess> exec(const oci::Process& process, ProcessFds stdio) override {
    return container_->exec(process, std::move(stdio));
  }
  Result<std::vector<pid_t>> processes() const override { return container_->processes(); }
  Result<void> signal_all(int signal) override { return container_->signal_all(signal); }
  Result<void> freeze(bool frozen) override { return container_->freeze(frozen); }
  Result<void> update(const oci::Resources& resources) override {
    return container_->update(resources);
  }
  Result<void> refresh(size_t mount, const std::string& version) override {
    return container_->refresh(mount, version);
  }
  Result<protocol::StatsReply> stats() const override { return container_->stats(); }
  int memory_events_fd() const override { return container_->memory_events_fd(); }
  Result<uint64_t> oom_kills() const override { return container_->oom_kills(); }
  int root_fd() const override { return container_->root_fd(); }
  void release_root() override { container_->release_root(); }
  Result<void> destroy() override { return container_->destroy(); }

 private:
  std::unique_ptr<Container> container_;
};

class RealPod : public GuestPod {
 public:
  explicit RealPod(std::unique_ptr<Pod> pod) : pod_(std::move(pod)) {}
  Result<int> namespace_fd(int type) override { return pod_->namespace_fd(type); }
  Result<protocol::StatsReply> stats() const override { return Pod::stats(); }

 private:
  std::unique_ptr<Pod> pod_;
};

}  // namespace

ContainerFactory real_containers() {
  return [](const ContainerSetup& setup,
            ProcessFds stdio) -> Result<std::unique_ptr<GuestContainer>> {
    auto container = TRY(Container::create(setup, std::move(stdio)));
    return std::unique_ptr<GuestContainer>(std::make_unique<RealContainer>(std::move(container)));
  };
}

PodFactory real_pods() {
  return [](const oci::Spec& config) -> Result<std::unique_ptr<GuestPod>> {
    auto pod = TRY(Pod::create(config));
    return std::unique_ptr<GuestPod>(std::make_unique<RealPod>(std::move(pod)));
  };
}

}  // namespace kiln::agent
