// SPDX-License-Identifier: Apache-2.0
#include <set>

#include "vmm/virtio/fs/fuse_client.h"

namespace kiln::vmm {
namespace {

class FuseNames : public FuseClientTest {
 protected:
  std::vector<std::string> names_in(const Answer& answer, bool plus, uint64_t& last) {
    std::vector<std::string> out;
    size_t at = 0;
    const size_t before = plus ? sizeof(fuse_entry_out) : 0;
    while (at + before + sizeof(fuse_dirent) <= answer.body.size()) {
      const auto record = answer.as<fuse_dirent>(at + before);
      const auto* name =
          reinterpret_cast<const char*>(answer.body.data() + at + before + FUSE_NAME_OFFSET);
      out.emplace_back(name, record.namelen);
      last = record.off;
      at += FUSE_DIRENT_ALIGN(before + FUSE_NAME_OFFSET + record.namelen);
    }
    return out;
  }
  // All names, fetched in pieces of `size` bytes.
  std::vector<std::string> list(uint64_t node, uint32_t size, bool plus) {
    const uint64_t handle = ask(FUSE_OPENDIR, node, fuse_open_in{}).as<fuse_open_out>().fh;
    std::vector<std::string> out;
    fuse_read_in wanted{};
    wanted.fh = handle;
    wanted.size = size;
    while (true) {
      const Answer answer = ask(plus ? FUSE_READDIRPLUS : FUSE_READDIR, node, wanted, {}, size);
      EXPECT_EQ(answer.error, 0);
      EXPECT_LE(answer.body.size(), size);
      const auto names = names_in(answer, plus, wanted.offset);
      if (names.empty()) break;
      out.insert(out.end(), names.begin(), names.end());
    }
    fuse_release_in close{};
    close.fh = handle;
    EXPECT_EQ(ask(FUSE_RELEASEDIR, node, close).error, 0);
    return out;
  }
};

TEST_F(FuseNames, MakesEveryKindOfFile) {
  EXPECT_EQ(ask(FUSE_MKDIR, rw_, fuse_mkdir_in{0750, 0}, z("dir")).error, 0);
  EXPECT_EQ(ask_bytes(FUSE_SYMLINK, rw_, nullptr, 0, z("link") + z("target")).error, 0);
  EXPECT_EQ(ask(FUSE_MKNOD, rw_, fuse_mknod_in{S_IFIFO | 0600, 0, 0, 0}, z("pipe")).error, 0);
  EXPECT_EQ(ask(FUSE_MKNOD, rw_, fuse_mknod_in{S_IFREG | 0640, 0, 0, 0}, z("file")).error, 0);
  EXPECT_EQ(host_stat("rw/dir").st_mode, S_IFDIR | 0750U);
  EXPECT_TRUE(S_ISLNK(host_stat("rw/link").st_mode));
  EXPECT_EQ(host_stat("rw/pipe").st_mode, S_IFIFO | 0600U);
  EXPECT_EQ(host_stat("rw/file").st_mode, S_IFREG | 0640U);
}

TEST_F(FuseNames, RefusesWhatExists) {
  put_file("rw/file", "x");
  EXPECT_EQ(ask(FUSE_MKDIR, rw_, fuse_mkdir_in{0750, 0}, z("file")).error, -EEXIST);
  EXPECT_EQ(ask_bytes(FUSE_SYMLINK, rw_, nullptr, 0, z("file") + z("t")).error, -EEXIST);
}

TEST_F(FuseNames, HardLinksAreTheSameNode) {
  put_file("rw/file", "x");
  const uint64_t node = lookup(rw_, "file");
  const Answer answer = ask(FUSE_LINK, rw_, fuse_link_in{node}, z("second"));
  EXPECT_EQ(answer.error, 0);
  EXPECT_EQ(answer.as<fuse_entry_out>().nodeid, node);
  EXPECT_EQ(answer.as<fuse_entry_out>().attr.nlink, 2U);
}

TEST_F(FuseNames, UnlinkedFileLivesWhileItIsKnown) {
  start({4, 64});
  put_file("rw/file", "content");
  const uint64_t node = lookup(rw_, "file");
  EXPECT_EQ(ask_name(FUSE_UNLINK, rw_, "file").error, 0);
  for (int i = 0; i < 20; ++i) {
    put_file("rw/" + std::to_string(i), "x");
    lookup(rw_, std::to_string(i));
  }
  EXPECT_EQ(read(node, open_ok(node, O_RDONLY), 0, 100), "content");
  EXPECT_EQ(attributes(node).nlink, 0U);
}

TEST_F(FuseNames, ReplacedFileLivesWhileItIsKnown) {
  put_file("rw/old", "old");
  put_file("rw/new", "new");
  const uint64_t old_node = lookup(rw_, "old");
  const uint64_t new_node = lookup(rw_, "new");
  EXPECT_EQ(ask(FUSE_RENAME, rw_, fuse_rename_in{rw_}, z("new") + z("old")).error, 0);
  EXPECT_EQ(read(old_node, open_ok(old_node, O_RDONLY), 0, 10), "old");
  EXPECT_EQ(lookup(rw_, "old"), new_node);
}

TEST_F(FuseNames, RenamesWithFlags) {
  put_file("rw/a", "a");
  put_file("rw/b", "b");
  const auto rename = [this](uint32_t flags) {
    return ask(FUSE_RENAME2, rw_, fuse_rename2_in{rw_, flags, 0}, z("a") + z("b")).error;
  };
  EXPECT_EQ(rename(RENAME_NOREPLACE), -EEXIST);
  EXPECT_EQ(rename(RENAME_EXCHANGE), 0);
  EXPECT_EQ(content("rw/a"), "b");
  EXPECT_EQ(rename(0x80), -EINVAL);
}

TEST_F(FuseNames, RenamingADirectoryMovesWhatIsBelow) {
  start({4, 64});
  std::filesystem::create_directories(root_ / "rw/from/deep");
  std::filesystem::create_directory(root_ / "rw/to");
  put_file("rw/from/deep/file", "content");
  const uint64_t from = lookup(rw_, "from");
  const uint64_t node = lookup(lookup(from, "deep"), "file");
  const uint64_t to = lookup(rw_, "to");
  EXPECT_EQ(ask(FUSE_RENAME, from, fuse_rename_in{to}, z("deep") + z("moved")).error, 0);
  for (int i = 0; i < 20; ++i) {
    put_file("rw/" + std::to_string(i), "x");
    lookup(rw_, std::to_string(i));
  }
  EXPECT_EQ(read(node, open_ok(node, O_RDONLY), 0, 100), "content");
}

TEST_F(FuseNames, SharesAreWorldsOfTheirOwn) {
  std::filesystem::create_directory(root_ / "second");
  share("second", root_ / "second", false);
  put_file("rw/file", "x");
  const uint64_t second = lookup(FUSE_ROOT_ID, "second");
  EXPECT_EQ(ask(FUSE_RENAME, rw_, fuse_rename_in{second}, z("file") + z("f")).error, -EXDEV);
  EXPECT_EQ(ask(FUSE_LINK, second, fuse_link_in{lookup(rw_, "file")}, z("f")).error, -EXDEV);
}

TEST_F(FuseNames, RemovesDirectoriesOnlyWhenEmpty) {
  std::filesystem::create_directory(root_ / "rw/dir");
  put_file("rw/dir/file", "x");
  EXPECT_EQ(ask_name(FUSE_RMDIR, rw_, "dir").error, -ENOTEMPTY);
  EXPECT_EQ(ask_name(FUSE_UNLINK, rw_, "dir").error, -EISDIR);
  EXPECT_EQ(ask_name(FUSE_UNLINK, lookup(rw_, "dir"), "file").error, 0);
  EXPECT_EQ(ask_name(FUSE_RMDIR, rw_, "dir").error, 0);
}

TEST_F(FuseNames, ListsEveryNameOnceHoweverSmallThePieces) {
  std::set<std::string> expected = {".", ".."};
  for (int i = 0; i < 500; ++i) {
    const std::string name = "a-rather-long-name-" + std::to_string(i);
    put_file("rw/" + name, "");
    expected.insert(name);
  }
  for (const bool plus : {false, true}) {
    for (const uint32_t size : {256U, 4096U, 65536U}) {
      const auto names = list(rw_, size, plus);
      EXPECT_EQ(names.size(), expected.size());
      EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), expected);
    }
  }
}

TEST_F(FuseNames, ListingWithAttributesCountsAsLookup) {
  put_file("rw/file", "x");
  list(rw_, 4096, true);
  const uint64_t node = lookup(rw_, "file");
  forget(node, 1);
  EXPECT_EQ(ask(FUSE_GETATTR, node, fuse_getattr_in{}).error, 0);
  forget(node, 1);
  EXPECT_EQ(ask(FUSE_GETATTR, node, fuse_getattr_in{}).error, -ESTALE);
}

TEST_F(FuseNames, ListsTheShares) {
  EXPECT_EQ(list(FUSE_ROOT_ID, 4096, false), (std::vector<std::string>{"ro", "rw"}));
  EXPECT_EQ(list(FUSE_ROOT_ID, 4096, true), (std::vector<std::string>{"ro", "rw"}));
}

TEST_F(FuseNames, DirectoriesAndFilesAreListedAndReadAsSuch) {
  put_file("rw/file", "x");
  EXPECT_EQ(ask(FUSE_OPENDIR, lookup(rw_, "file"), fuse_open_in{}).error, -ENOTDIR);
  EXPECT_EQ(open(rw_, O_RDONLY).error, -EISDIR);
}

}  // namespace
}  // namespace kiln::vmm
