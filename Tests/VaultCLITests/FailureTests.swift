import Core
import Foundation
import IO
import TestSupport
import Testing
import Vault

@Suite("salvor vault, when things go wrong") struct FailureTests {
  @Test(.timeLimit(.minutes(10)))
  func `wrong password, no repository, nothing said`() async throws {
    var fixture = try await VaultFixture.withRepository()
    let before = try await fixture.repositoryPicture()
    let wrong = fixture.directory.file("wrong")
    try Files.replace(wrong, with: Array("wrong".utf8))
    expectFailure(try await fixture.salvor("backup", "source", "-p", wrong), 1, "VAULT-101")
    expectFailure(try await fixture.salvor("init"), 6, "VAULT-103")
    expectFailure(
      try await fixture.salvor("snapshots", environment: ["RESTIC_PASSWORD_FILE": ""]), 2, "USAGE-404")
    expectFailure(
      try await fixture.salvor("snapshots", "--password-command", "false", environment: ["RESTIC_PASSWORD_FILE": ""]),
      1, "SECRET-104")
    expectFailure(try await fixture.salvor("snapshots", environment: ["RESTIC_REPOSITORY": ""]), 2, "USAGE-401")
    expectFailure(try await fixture.salvor("restore", "latest", "-t", fixture.directory.file("out")), 1, "VAULT-107")
    #expect(!Files.exists(fixture.directory.file("out")))
    #expect(try await fixture.repositoryPicture() == before)

    fixture.repository = fixture.directory.file("elsewhere")
    expectFailure(try await fixture.salvor("backup", "source"), 1, "VAULT-102")
    #expect(!Files.exists(fixture.repository), "a wrong location is not created")
    #expect(try await fixture.salvor("backup").status == 2)
    #expect(try await fixture.salvor("snapshots", "--password", "x").status == 2, "a password is no argument")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a locked repository is left alone`() async throws {
    let fixture = try await VaultFixture.withRepository()
    let repository = try await fixture.open()
    try await repository.withLock(exclusive: true) {
      let before = try await fixture.repositoryPicture()
      expectFailure(try await fixture.salvor("backup", "source"), 1, "VAULT-201", says: "process")
      expectFailure(try await fixture.salvor("snapshots"), 1, "VAULT-201")
      #expect(try await fixture.salvor("snapshots", "--no-lock").status == 0)
      #expect(try await fixture.repositoryPicture() == before)
    }
    // restic at work: a shared lock. Backups go on, a check waits its turn.
    let place = fixture.directory.path
    let holder = try PipedProcess(
      ["/usr/bin/restic", "--no-cache", "-r", fixture.repository, "-p", fixture.passwordFile, "backup", "--stdin"],
      environment: ["HOME": place])
    for _ in 0..<200 where try Files.names(in: fixture.repository + "/locks").isEmpty {
      try await Task.sleep(for: .milliseconds(50))
    }
    expectFailure(try await fixture.salvor("check"), 1, "VAULT-201")
    try await fixture.salvor("backup", "source").succeeded()
    #expect(try await fixture.salvor("unlock").succeeded().output == "removed 0 locks\n", "its process lives")
    holder.kill()
    #expect(try Files.names(in: fixture.repository + "/locks").count == 1)
    // Its process is gone from this very host: nobody else would take the lock away.
    try await fixture.salvor("check").succeeded()
    #expect(try Files.names(in: fixture.repository + "/locks").isEmpty)
  }

  @Test(.timeLimit(.minutes(10)))
  func `what can't be read is told, and the rest is stored`() async throws {
    let fixture = try await VaultFixture.withRepository()
    // Reading it fails, for root too.
    let run = try await fixture.salvor("backup", "source", "/proc/self/mem", "--json")
    expectFailure(run, 3, "VAULT-151", says: "/proc/self/mem")
    let summary = try CanonicalJSON.decode(JSONValue.self, from: Array(run.output.utf8))
    #expect(summary["errors"] == 1)
    let listed = try await fixture.restic("ls", "latest").output.split(separator: "\n")
    #expect(listed.contains { $0.hasSuffix("/sub/deep/large") } && !listed.contains("/proc/self/mem"))
    let none = try await fixture.salvor("backup", fixture.directory.file("nowhere"))
    expectFailure(none, 1, "IO-104")
    #expect(try await fixture.salvor("list", "snapshots").output.split(separator: "\n").count == 1)
  }

  @Test(.timeLimit(.minutes(10)))
  func `what came while a backup waited for the lock is in it`() async throws {
    let fixture = try await VaultFixture.withRepository()
    let repository = try await fixture.open()
    let backup = try await repository.withLock(exclusive: true) {
      let backup = Task { try await fixture.salvor("backup", "source", "--retry-lock", "5m") }
      try await Task.sleep(for: .seconds(4))
      try fixture.write("sub/late", [1])
      return backup
    }
    try await backup.value.succeeded()
    #expect(try await fixture.restic("ls", "latest").output.contains("/sub/late\n"))
  }

  /// A deep tree of wide directories, with fewer descriptors than it has directories.
  @Test(.timeLimit(.minutes(10))) func `few open files are enough for a deep tree`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.shell(
      "d=.; for i in $(seq 12); do mkdir -p $d/z{00..69} $d/a; touch $d/z{00..69}/f; d=$d/a; done")
    let program = try CommandRun.product("salvor")
    let run = try await CommandRun(
      ["prlimit", "--nofile=512:512", program, "vault", "backup", "-r", fixture.repository, fixture.source],
      environment: ["RESTIC_PASSWORD_FILE": fixture.passwordFile, "SALVOR_STATE": fixture.directory.file("state")])
    #expect(run.status == 0, "\(run.errors.suffix(500))")
  }

  /// Nothing lies in most directories but the next one, and the tree is deeper than the soft limit allows.
  @Test(.timeLimit(.minutes(10))) func `few open files are enough for many long ways down`() async throws {
    let fixture = try await VaultFixture.withRepository()
    let way = (0..<30).map { "d\($0)" }.joined(separator: "/")
    try await fixture.shell("for i in $(seq 100); do mkdir -p $i/\(way); echo $i > $i/\(way)/f; done")
    for limits in ["256:256", "40:4096"] {
      let run = try await CommandRun(
        [
          "prlimit", "--nofile=\(limits)", CommandRun.product("salvor"), "vault", "backup", "--force", "-r",
          fixture.repository, fixture.source,
        ],
        environment: ["RESTIC_PASSWORD_FILE": fixture.passwordFile, "SALVOR_STATE": fixture.directory.file("state")])
      #expect(run.status == 0, "\(limits): \(run.errors.suffix(500))")
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a damaged pack is found, and a restore says that it is not whole`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source").succeeded()
    let pack = try await fixture.shell("find \(fixture.repository)/data -type f -size +1M | head -1")
      .trimmingCharacters(in: .newlines)
    try await fixture.shell("truncate -s 700000 \(pack)")
    let before = try await fixture.repositoryPicture()

    for words in [["check"], ["check", "--read-data"]] {
      let run = try await fixture.salvor(words[0], words.count > 1 ? "--read-data" : "--no-lock")
      expectFailure(run, 4, "VAULT-140")
      #expect(run.output.contains(Files.last(of: pack)), "every finding: \(run.output)")
    }
    let json = try await fixture.salvor("check", "--json").output
    let report = try CanonicalJSON.decode(JSONValue.self, from: Array(json.utf8))
    #expect(report["sound"] == false)
    #expect(report["findings"]?.array?.contains { $0["remedy"]?.string != nil } == true)

    let target = fixture.directory.file("out")
    let run = try await fixture.salvor("restore", "latest", "-t", target)
    expectFailure(run, 1, "VAULT-121", "VAULT-122", says: "SALVOR-RESTORE-INCOMPLETE")
    #expect(run.output.isEmpty)
    #expect(Files.exists("\(target)/SALVOR-RESTORE-INCOMPLETE"))
    expectFailure(try await fixture.salvor("restore", "latest", "-t", target), 6, "TREE-302")
    #expect(try await fixture.repositoryPicture() == before)
  }

  @Test(.timeLimit(.minutes(10)))
  func `a target that holds something, or can't be written to`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source").succeeded()
    let picture = try await VaultFixture.picture(fixture.source)
    expectFailure(try await fixture.salvor("restore", "latest", "-t", fixture.source), 6, "TREE-302")
    #expect(try await VaultFixture.picture(fixture.source) == picture)
    // A file that is there is not written over, and counts as not restored.
    let target = fixture.directory.file("merged")
    try Files.createDirectory(target + fixture.source)
    try Files.replace(target + fixture.source + "/plain", with: Array("mine".utf8))
    let merged = try await fixture.salvor("restore", "latest", "-t", target, "--merge", "--include", "plain")
    expectFailure(merged, 1, "TREE-303", says: "SALVOR-RESTORE-INCOMPLETE")
    #expect(try Files.read(target + fixture.source + "/plain") == Array("mine".utf8))

    let disk = try await SmallDisk(fixture.directory.file("disk"), megabytes: 2)
    try await disk.using {
      try await disk.makeReadOnly()
      expectFailure(try await fixture.salvor("restore", "latest", "-t", disk.path), 1, "IO-102")
      #expect(try Files.names(in: disk.path).isEmpty)
    }
    let small = try await SmallDisk(fixture.directory.file("disk"), megabytes: 2)
    try await small.using {
      let run = try await fixture.salvor("restore", "latest", "-t", small.path)
      expectFailure(run, 1, "IO-101", says: "SALVOR-RESTORE-INCOMPLETE")
      #expect(Files.exists("\(small.path)/SALVOR-RESTORE-INCOMPLETE"))
    }
  }

  @Test(.timeLimit(.minutes(10)))
  func `a repository's disk that is full, or read-only`() async throws {
    var fixture = try await VaultFixture()
    let disk = try await SmallDisk(fixture.directory.file("disk"), megabytes: 2)
    fixture.repository = disk.path + "/repository"
    let full = fixture
    try await disk.using {
      try await full.create()
      expectFailure(try await full.salvor("backup", "source"), 1, "STORE-105")
      #expect(try await full.salvor("list", "snapshots").succeeded().output.isEmpty)
      #expect(try await full.salvor("list", "locks").succeeded().output.isEmpty)
      try await full.salvor("check", "--read-data").succeeded()
      try await full.restic("check")
      // What fits still goes in.
      try await full.salvor("backup", "source", "--exclude", "large").succeeded()
      let before = try await full.repositoryPicture()
      try await disk.makeReadOnly()
      try full.write("more", Array("more".utf8))
      expectFailure(try await full.salvor("backup", "source", "--exclude", "large"), 1, "STORE-106")
      expectFailure(try await full.salvor("snapshots"), 1, "STORE-106")
      #expect(try await full.salvor("snapshots", "--no-lock").succeeded().output.contains("1 snapshot"))
      #expect(try await full.repositoryPicture() == before)
    }
  }
}
