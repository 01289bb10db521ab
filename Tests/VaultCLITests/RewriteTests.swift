import Core
import Foundation
import IO
import TestSupport
import Testing
import Vault

@Suite("salvor vault rewrite, migrate, dump, cat") struct RewriteTests {
  private func json(_ run: CommandRun) throws -> JSONValue {
    try CanonicalJSON.decode(JSONValue.self, from: Array(run.output.utf8))
  }

  private func listed(_ fixture: VaultFixture, _ snapshot: String = "latest") async throws -> [Substring] {
    try await fixture.restic("ls", snapshot).output.split(separator: "\n").filter { $0.hasPrefix("/") }
  }

  @Test(.timeLimit(.minutes(10)))
  func `files are taken out of snapshots, and restic agrees`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.restic("backup", fixture.source, "--tag", "one")
    try fixture.write("plain", Array("changed".utf8))
    try await fixture.salvor("backup", "source", "--tag", "two").succeeded()
    let before = try await fixture.repositoryPicture()
    let whole = try await listed(fixture)
    let dry = try json(try await fixture.salvor("rewrite", "-n", "--exclude", "large", "--json").succeeded())
    #expect(dry.array?.count == 2 && dry.array?[0]["removed_files"] == 1 && dry.array?[0]["removed_bytes"] == 3_145_728)
    #expect(dry.array?[0]["new_snapshot_id"] == nil)
    #expect(try await fixture.repositoryPicture() == before, "a dry run changes nothing")

    let first = try json(
      try await fixture.salvor("rewrite", "--exclude", "large", "--tag", "one", "--json").succeeded())
    let (old, new) = (
      try #require(first.array?.first?["old_snapshot_id"]?.string),
      try #require(first.array?.first?["new_snapshot_id"]?.string)
    )
    #expect(first.array?[0]["tree"] == dry.array?[0]["tree"], "a dry run names the tree that comes")
    let snapshots = try CanonicalJSON.decode(
      [JSONValue].self, from: Array(try await fixture.restic("snapshots", "--json").output.utf8))
    #expect(snapshots.count == 3, "the first one stays")
    let rewritten = try #require(snapshots.first { $0["id"]?.string == new })
    #expect(rewritten["original"]?.string == old && rewritten["tags"] == ["one", "rewrite"])
    #expect(try await listed(fixture, new) == whole.filter { !$0.hasSuffix("/large") })
    #expect(try await listed(fixture, old) == whole)

    let gone = try json(
      try await fixture.salvor("rewrite", "--iexclude", "SUB/DEEP", "--forget", "--tag", "two", "--json").succeeded())
    let last = try #require(gone.array?.first?["new_snapshot_id"]?.string)
    #expect(gone.array?[0]["removed_dirs"] == 1 && gone.array?[0]["removed_files"] == 1)
    #expect(try await listed(fixture, last) == whole.filter { !$0.contains("/sub/deep") })
    #expect(try await fixture.salvor("list", "snapshots").output.split(separator: "\n").count == 3, "replaced")
    let nothing = try await fixture.salvor("rewrite", "--exclude", "not-there").succeeded()
    #expect(nothing.output.contains("0 of 3 snapshots rewritten"))
    try await fixture.salvor("rewrite", "--new-host", "elsewhere", "--new-time", "2020-02-02", "--forget", last)
      .succeeded()
    #expect(try await fixture.restic("snapshots", "--host", "elsewhere").output.contains("2020-02-02"))
    try await fixture.salvor("check", "--read-data").succeeded()
    try await fixture.restic("check", "--read-data")
    let target = fixture.directory.file("out")
    try await fixture.restic("restore", new, "--target", target)
    #expect(!Files.exists("\(target)\(fixture.source)/sub/deep/large"))
    #expect(Files.exists("\(target)\(fixture.source)/sub/trace.log"))
    #expect(try await fixture.salvor("rewrite", "latest").status == 2)
  }

  @Test(.timeLimit(.minutes(10)))
  func `a recovery point's snapshots are not rewritten, nor a tree that would lose something`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.restic("backup", fixture.source, "--tag", "salvor,point:7,store:files")
    let before = try await fixture.repositoryPicture()
    expectFailure(try await fixture.salvor("rewrite", "--exclude", "large"), 6, "VAULT-163")
    #expect(try await fixture.repositoryPicture() == before)

    let repository = try await fixture.open()
    let content = try await repository.save(.data, Array("x".utf8)).id
    let times = ["mtime", "atime", "ctime"].map { "\"\($0)\":\"2026-11-21T08:00:00Z\"" }.joined(separator: ",")
    func node(_ name: String) -> String {
      "{\"name\":\"\(name)\",\"type\":\"file\",\"mode\":420,\(times),\"uid\":0,\"gid\":0,\"size\":1,\"links\":1,"
        + "\"content\":[\"\(content.hex)\"],\"of_the_future\":1}"
    }
    let tree = try await repository.save(.tree, Array("{\"nodes\":[\(node("a")),\(node("b"))]}\n".utf8)).id
    _ = try await repository.save(
      Snapshot(time: Timestamp(seconds: 1_800_000_000), tree: tree, paths: ["/"], hostname: "future"))
    expectFailure(try await fixture.salvor("rewrite", "--exclude", "a", "--host", "future"), 1, "VAULT-213")
    #expect(try await fixture.salvor("list", "snapshots").output.split(separator: "\n").count == 2)
  }

  @Test(.timeLimit(.minutes(10)))
  func `version 1 becomes version 2, also after an interruption`() async throws {
    let fixture = try await VaultFixture()
    try await fixture.restic("init", "--repository-version", "1")
    try await fixture.restic("backup", fixture.source)
    let picture = try await VaultFixture.picture(fixture.source)
    #expect(try await fixture.salvor("migrate").succeeded().output.contains("available: upgrade_repo_v2"))
    // A damaged repository is left alone.
    let index = try await fixture.shell("ls \(fixture.repository)/index/*").trimmingCharacters(in: .newlines)
    try await fixture.shell("mv \(index) \(fixture.directory.file("index"))")
    let before = try await fixture.repositoryPicture()
    expectFailure(try await fixture.salvor("migrate", "upgrade_repo_v2"), 4, "VAULT-214")
    #expect(try await fixture.repositoryPicture() == before)
    try await fixture.shell("mv \(fixture.directory.file("index")) \(index)")

    // Killed before anything was taken away: what was to come lies there, and it simply runs again.
    let location = Digest.of("local:\(fixture.repository)").hex.prefix(32)
    let pending = fixture.directory.file("state/vault/upgrade-\(location).config")
    try Files.createDirectory(Files.parent(of: pending))
    try Files.replace(pending, with: Array("half".utf8))
    #expect(try await fixture.salvor("migrate", "upgrade_repo_v2").succeeded().output.contains("version 2 now"))
    #expect(try await fixture.shell("find ../state -type f").isEmpty, "nothing is left behind")
    #expect(
      try await fixture.salvor("migrate", "upgrade_repo_v2").succeeded().output.contains("version 2 now"), "again")
    #expect(try await fixture.restic("cat", "config").output.contains("\"version\": 2"))
    try fixture.write("text", Array(String(repeating: "compress me ", count: 20_000).utf8))
    try await fixture.salvor("backup", "source").succeeded()
    try await fixture.restic("backup", fixture.source)
    try await fixture.restic("check", "--read-data")
    let target = fixture.directory.file("out")
    let first = try await fixture.salvor("snapshots", "--json").output
    let id = try #require(try CanonicalJSON.decode([JSONValue].self, from: Array(first.utf8))[0]["id"]?.string)
    try await fixture.restic("restore", id, "--target", target)
    #expect(try await VaultFixture.picture(target + fixture.source) == picture)

    // Where a store can't replace at one stroke: killed between taking the old one away and putting the new one.
    let new = try Files.read("\(fixture.repository)/config")
    try Files.replace(pending, with: new)
    try await fixture.shell("rm -f \(fixture.repository)/config")
    expectFailure(try await fixture.salvor("snapshots"), 1, "VAULT-102")
    let finished = try await fixture.salvor("migrate", "upgrade_repo_v2").succeeded()
    #expect(finished.output.contains("an interrupted upgrade was finished"))
    try await fixture.restic("check")
    // Not with somebody else's.
    let other = try await VaultFixture.withRepository()
    try Files.replace(pending, with: try Files.read("\(other.repository)/config"))
    try await fixture.shell("rm -f \(fixture.repository)/config")
    expectFailure(try await fixture.salvor("migrate", "upgrade_repo_v2"), 1, "VAULT-127")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a directory is dumped as an archive that tar unpacks to the same`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.shell(
      """
      mkdir -p '\(String(repeating: "long", count: 30))/umlaut-ä'
      printf x > '\(String(repeating: "long", count: 30))/umlaut-ä/'$'odd\\nname\\xff'
      ln -s '\(String(repeating: "t", count: 150))' longlink
      setfattr -n user.comment -v 'kept' plain
      mknod dev c 1 3; mknod block b 259 300
      touch -d '1969-12-31 23:59:58.25 UTC' old; touch -d '2040-05-06 07:08:09.123456789 UTC' new; touch -d '2020-01-01 00:00:00 UTC' whole
      chown 3000000:3000001 new; dd if=/dev/zero of=exact bs=512 count=3 2>/dev/null
      python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("socket")'
      """)
    try await fixture.salvor("backup", "source").succeeded()
    let archive = fixture.directory.file("a.tar")
    func shell(_ script: String) async throws -> CommandRun {
      try await CommandRun(
        ["bash", "-euc", script], in: fixture.directory.path,
        environment: ["RESTIC_REPOSITORY": fixture.repository, "RESTIC_PASSWORD_FILE": fixture.passwordFile]
      )
      .succeeded()
    }
    let salvor = try CommandRun.product("salvor")
    let run = try await shell("\(salvor) vault dump latest / > \(archive)")
    #expect(run.errors.contains("1 socket left out"))
    _ = try await shell("mkdir ours && tar -x --xattrs --xattrs-include='*' -p -C ours -f \(archive)")
    try await fixture.shell("rm socket; rm -f ../ours\(fixture.source)/socket")
    let unpacked = try await VaultFixture.picture(fixture.directory.file("ours") + fixture.source)
    #expect(try await VaultFixture.picture(fixture.source) == unpacked)
    #expect(try await shell("getfattr -n user.comment --only-values ours\(fixture.source)/plain").output == "kept")
    #expect(try await shell("stat -c '%t %T' ours\(fixture.source)/block").output == "103 12c\n")
    // The same names as in restic's archive.
    _ = try await shell("restic --no-cache dump latest / > theirs.tar")
    // restic 0.14 leaves out what is no file, directory or link.
    let names = try await shell("tar -tf \(archive) | grep -vE '/(pipe|dev|block)$' | sort").output
    #expect(try await shell("tar -tf theirs.tar | sort").output == names)
    let part = try await shell("\(salvor) vault dump latest \(fixture.source)/sub | tar -t").output
    #expect(part.contains("sub/deep/large") && !part.contains("plain"))
    #expect(try await shell("\(salvor) vault dump latest \(fixture.source)/plain").output == "hello\n")
    expectFailure(try await fixture.salvor("dump", "latest", fixture.source + "/link"), 1, "TREE-202")
  }

  @Test(.timeLimit(.minutes(10)))
  func `every kind of object is shown as restic shows it`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source").succeeded()
    let key = try json(try await fixture.salvor("cat", "masterkey", "--json").succeeded())
    let theirs = try json(try await fixture.restic("cat", "masterkey"))
    // restic shows r as Poly1305 clamps it.
    #expect(key["encrypt"]?.string?.isEmpty == false && key["encrypt"] == theirs["encrypt"])
    #expect(key["mac"]?["k"] == theirs["mac"]?["k"])
    #expect(try await fixture.salvor("cat", "masterkey").errors.contains("can read and forge"))
    let pack = try await fixture.salvor("list", "packs").output.split(separator: "\n")[0]
    let digest = try await CommandRun(
      ["bash", "-euc", "\(CommandRun.product("salvor")) vault cat pack \(pack.prefix(12)) | sha256sum"],
      in: fixture.directory.path,
      environment: ["RESTIC_REPOSITORY": fixture.repository, "RESTIC_PASSWORD_FILE": fixture.passwordFile]
    )
    .succeeded().output
    #expect(digest.hasPrefix(pack))
    let root = try await fixture.salvor("cat", "tree", "latest").succeeded().output
    #expect(root.hasPrefix("{\"nodes\":[{\"name\":\"") && root.hasSuffix("]}\n"))
    let sub = try await fixture.salvor("cat", "tree", "latest:\(fixture.source)/sub").succeeded().output
    #expect(sub.contains("trace.log") && !sub.contains("plain"))
    #expect(try await fixture.salvor("cat", "masterkey", "x").status == 2)
    #expect(try await fixture.salvor("cat", "pack").status == 2)
  }

  @Test(.timeLimit(.minutes(10)))
  func `a password is read alike from every place`() async throws {
    let fixture = try await VaultFixture.withRepository()
    let none = ["RESTIC_PASSWORD_FILE": ""]
    // Blanks and lines at the ends, as an editor leaves them: restic opens with it, so do all of ours.
    let untidy = fixture.directory.file("untidy")
    try Files.replace(untidy, with: Array("\n  \(VaultFixture.password) \r\n\n".utf8))
    try await fixture.restic("-p", untidy, "snapshots")
    for words in [
      ["-p", untidy], ["--password-command", "cat \(untidy)"], ["--password-from", "file:\(untidy)"],
      ["--password-from", "command:cat \(untidy)"],
    ] {
      try await fixture.salvor(words + ["snapshots"], environment: none).succeeded()
    }
    try await fixture.salvor(
      ["--password-from", "env:THE_PASSWORD", "snapshots"],
      environment: none.merging(["THE_PASSWORD": VaultFixture.password]) { $1 }
    ).succeeded()
    try await fixture.salvor(
      ["snapshots"], environment: none.merging(["RESTIC_PASSWORD": VaultFixture.password]) { $1 }
    )
    .succeeded()
    expectFailure(
      try await fixture.salvor(["--password-from", "correct horse", "snapshots"], environment: none), 2, "USAGE-411")
    let run = try await fixture.salvor(["--password-from", "hunter2", "snapshots"], environment: none)
    #expect(!run.errors.contains("hunter2"))
    expectFailure(try await fixture.salvor("--password-from", "env:X", "-p", untidy, "snapshots"), 2, "USAGE-402")
    let second = fixture.directory.file("second")
    try Files.replace(second, with: Array("second\n".utf8))
    for (option, value) in [
      ("--new-password-command", "cat \(second)"), ("--new-password-from", "file:\(second)"),
    ] {
      try await fixture.salvor("key", "add", option, value).succeeded()
      try await fixture.restic("-p", second, "snapshots")
    }
    #expect(
      try await fixture.salvor("key", "add", "--new-password-from", "env:X", "--new-password-file", second).status == 2)
  }
}
