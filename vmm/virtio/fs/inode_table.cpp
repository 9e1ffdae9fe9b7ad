// SPDX-License-Identifier: Apache-2.0
#include "vmm/virtio/fs/inode_table.h"

#include <fcntl.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "base/file.h"

namespace kiln::vmm {

size_t InodeTable::IdentityHash::operator()(const Identity& identity) const {
  // Inode numbers come in runs: the multiplication spreads them over the buckets.
  constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;
  const auto entry = reinterpret_cast<uintptr_t>(identity.entry);
  return static_cast<size_t>((identity.number ^ (identity.device << 40) ^ (entry << 8)) * kOdd);
}

Inode* InodeTable::add(std::unique_ptr<Inode> inode) {
  Inode* added = inode.get();
  added->id = next_id_++;
  added->lookups = 1;
  by_identity_[{added->entry.get(), added->device, added->number}] = added;
  inodes_[added->id] = std::move(inode);
  if (added->parent != nullptr) acquire(*added->parent);
  return added;
}

Inode* InodeTable::open_entry(const std::shared_ptr<FsEntry>& entry) {
  const auto known = by_identity_.find({entry.get(), entry->info.st_dev, entry->info.st_ino});
  if (known != by_identity_.end()) {
    ++known->second->lookups;
    return known->second;
  }
  if (inodes_.size() >= kMaxInodes) return nullptr;
  auto inode = std::make_unique<Inode>();
  inode->entry = entry;
  inode->device = entry->info.st_dev;
  inode->number = entry->info.st_ino;
  inode->type = entry->info.st_mode & S_IFMT;
  return add(std::move(inode));
}

Inode* InodeTable::open_child(Inode& parent, const std::string& name, UniqueFd fd,
                              const struct stat& info) {
  const auto known = by_identity_.find({parent.entry.get(), info.st_dev, info.st_ino});
  // A number whose file has been closed here may be another file's by now.
  if (known != by_identity_.end() && known->second->type == (info.st_mode & S_IFMT)) {
    Inode& inode = *known->second;
    ++inode.lookups;
    // The name by which it was seen last is the one that is most likely still there.
    if (inode.parent != nullptr && (inode.parent != &parent || inode.name != name))
      renamed(inode, parent, name);
    if (!inode.fd && inode.parent != nullptr) {
      inode.fd = std::move(fd);
      list(inode);
    }
    return &inode;
  }
  if (inodes_.size() >= kMaxInodes) return nullptr;
  auto inode = std::make_unique<Inode>();
  inode->entry = parent.entry;
  inode->parent = &parent;
  inode->name = name;
  inode->device = info.st_dev;
  inode->number = info.st_ino;
  inode->type = info.st_mode & S_IFMT;
  inode->fd = std::move(fd);
  Inode* added = add(std::move(inode));
  list(*added);
  return added;
}

Inode* InodeTable::find(uint64_t id) {
  const auto found = inodes_.find(id);
  return found == inodes_.end() || found->second->lookups == 0 ? nullptr : found->second.get();
}

void InodeTable::list(Inode& inode) {
  used_.push_front(&inode);
  inode.place = used_.begin();
  inode.listed = true;
  while (used_.size() > max_descriptors_) close_oldest();
}

void InodeTable::touch(Inode& inode) {
  if (inode.listed) used_.splice(used_.begin(), used_, inode.place);
}

void InodeTable::close_oldest() {
  Inode& oldest = *used_.back();
  used_.pop_back();
  oldest.listed = false;
  // What has no name any more could not be found again.
  if (!oldest.unlinked) oldest.fd.reset();
}

int InodeTable::descriptor(Inode& inode) {
  if (inode.parent == nullptr) return inode.entry->fd.get();
  if (inode.fd) {
    touch(inode);
    return inode.fd.get();
  }
  // As deep as the guest's own directories, each level an inode of its own: bounded by PATH_MAX in
  // the guest's kernel, and by a loop rather than by the stack here.
  std::vector<Inode*> missing;
  Inode* at = &inode;
  while (at->parent != nullptr && !at->fd) {
    missing.push_back(at);
    at = at->parent;
  }
  int directory = at->parent == nullptr ? at->entry->fd.get() : at->fd.get();
  UniqueFd held;
  for (auto next = missing.rbegin(); next != missing.rend(); ++next) {
    UniqueFd fd(openat(directory, (*next)->name.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
    if (!fd) return errno == ENOENT || errno == ENOTDIR ? -ESTALE : -errno;
    struct stat info {};
    if (fstat(fd.get(), &info) != 0) return -errno;
    if (info.st_dev != (*next)->device || info.st_ino != (*next)->number ||
        (info.st_mode & S_IFMT) != (*next)->type)
      return -ESTALE;
    held = std::move(fd);
    directory = held.get();
    if (*next == &inode) {
      inode.fd = std::move(held);
      list(inode);
      return inode.fd.get();
    }
  }
  return -ESTALE;
}

void InodeTable::forget(Inode& inode, uint64_t lookups) {
  inode.lookups -= std::min(lookups, inode.lookups);
  drop_if_unused(&inode);
}

void InodeTable::release(Inode& inode) {
  --inode.users;
  drop_if_unused(&inode);
}

void InodeTable::drop_if_unused(Inode* inode) {
  while (inode != nullptr && inode->lookups == 0 && inode->users == 0) {
    Inode* parent = inode->parent;
    const auto known = by_identity_.find({inode->entry.get(), inode->device, inode->number});
    if (known != by_identity_.end() && known->second == inode) by_identity_.erase(known);
    if (inode->listed) used_.erase(inode->place);
    // The file's end, most likely.
    if (inode->unlinked) closer_.close(std::move(inode->fd));
    inodes_.erase(inode->id);
    if (parent != nullptr) --parent->users;
    inode = parent;
  }
}

Inode* InodeTable::find_by_identity(const FsEntry& entry, const struct stat& info) {
  const auto known = by_identity_.find({&entry, info.st_dev, info.st_ino});
  return known == by_identity_.end() ? nullptr : known->second;
}

void InodeTable::renamed(Inode& inode, Inode& parent, const std::string& name) {
  inode.name = name;
  inode.unlinked = false;
  if (inode.parent == &parent || inode.parent == nullptr) return;
  // A directory that became its own descendant would be a loop that nothing could free.
  for (const Inode* above = &parent; above != nullptr; above = above->parent) {
    if (above == &inode) return;
  }
  Inode* old_parent = inode.parent;
  acquire(parent);
  inode.parent = &parent;
  release(*old_parent);
}

uint64_t InodeTable::guest_number(dev_t device, ino_t number) {
  const auto [found, added] = devices_.try_emplace(device, devices_.size());
  return number ^ (found->second << 48);
}

void InodeTable::clear() {
  used_.clear();
  by_identity_.clear();
  inodes_.clear();
}

}  // namespace kiln::vmm
