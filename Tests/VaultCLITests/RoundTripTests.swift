import Core
import Foundation
import IO
import TestSupport
import Testing

@Suite("salvor vault, judged by restic") struct RoundTripTests {
  @Test(.timeLimit(.minutes(10)), arguments: ["1", "2"])
  func `restic reads and restores what was backed up`(_ version: String) async throws {
    let fixture = try await VaultFixture()
    let made = try await fixture.salvor("init", "--repository-version", version).succeeded()
    #expect(made.output.hasPrefix("created restic repository "))
    let backup = try await fixture.salvor("backup", "source", "--tag", "a,b", "--host", "elsewhere").succeeded()
    #expect(backup.output.contains("Files:  5 new, 0 changed, 0 unmodified"))

    try fixture.write("plain", Array("changed\n".utf8))
    let second = try await fixture.salvor("backup", "source", "--host", "elsewhere", "--json").succeeded()
    let summary = try CanonicalJSON.decode(JSONValue.self, from: Array(second.output.utf8))
    // The file, and what was its second name: one link less is a change of status.
    #expect(summary["files_changed"] == 2)
    #expect(summary["files_unmodified"] == 3)
    #expect(summary["message_type"] == "summary")
    #expect(summary["parent"]?.string?.isEmpty == false, "the first snapshot of the same host and paths")

    try await fixture.restic("check", "--read-data")
    let ours = try await fixture.salvor("snapshots", "--json").succeeded().output
    let theirs = try await fixture.restic("snapshots", "--json").output
    let (a, b) = (try Self.values(ours), try Self.values(theirs))
    #expect(a == b && a.count == 2, "the same members and values as restic prints")

    try await fixture.restic("restore", "latest", "--target", fixture.directory.file("out"))
    let restored = fixture.directory.file("out") + fixture.source
    #expect(try await VaultFixture.picture(restored) == VaultFixture.picture(fixture.source))
  }

  @Test(.timeLimit(.minutes(10)))
  func `what restic backed up is listed and restored`() async throws {
    let fixture = try await VaultFixture()
    try await fixture.restic("init")
    try await fixture.restic("backup", fixture.source, "--tag", "nightly")
    let listed = try await fixture.salvor("snapshots", "--tag", "nightly").succeeded().output
    #expect(listed.contains("nightly") && listed.hasSuffix("1 snapshot\n"))
    #expect(try await fixture.salvor("snapshots", "--tag", "other").succeeded().output.contains("0 snapshots"))

    let ours = try await fixture.salvor("ls", "latest", "--json").succeeded().output.split(separator: "\n").dropFirst()
    let theirs = try await fixture.restic("ls", "latest", "--json").output.split(separator: "\n").dropFirst()
    #expect(Array(ours) == Array(theirs), "every node's line, byte for byte")
    let long = try await fixture.salvor("ls", "-l", "latest").succeeded().output
    #expect(try await fixture.restic("ls", "-l", "latest").output.hasSuffix(long))

    let target = fixture.directory.file("out")
    let run = try await fixture.salvor("restore", "latest", "--target", target, "--verify").succeeded()
    #expect(run.output.contains("verified"))
    #expect(try await VaultFixture.picture(target + fixture.source) == VaultFixture.picture(fixture.source))
    #expect(!Files.exists("\(target)/SALVOR-RESTORE-INCOMPLETE"))

    let part = fixture.directory.file("part")
    try await fixture.salvor("restore", "latest", "-t", part, "--include", "sub", "--exclude", "*.log").succeeded()
    let found = try await CommandRun(["find", ".", "-type", "f", "-printf", "%P"], in: part + fixture.source).output
    #expect(found == "sub/deep/large")
  }

  @Test(.timeLimit(.minutes(10)))
  func `passwords are added, used by restic, changed and removed`() async throws {
    let fixture = try await VaultFixture.withRepository()
    let second = fixture.directory.file("second")
    try Files.replace(second, with: Array("battery staple".utf8))
    try await fixture.salvor("key", "add", "--new-password-file", second).succeeded()
    try await fixture.restic("-p", second, "snapshots")
    let keys = try Self.values(try await fixture.salvor("key", "list", "--json").succeeded().output)
    #expect(keys.count == 2)
    let current = try #require(keys.first { $0["current"] == true }?["id"]?.string)
    expectFailure(try await fixture.salvor("key", "remove", current), 6, "VAULT-106")

    let third = fixture.directory.file("third")
    try Files.replace(third, with: Array("third".utf8))
    try await fixture.salvor("-p", second, "key", "passwd", "--new-password-file", third).succeeded()
    expectFailure(try await fixture.salvor("-p", second, "snapshots"), 1, "VAULT-101")
    try await fixture.salvor("-p", third, "key", "remove", current).succeeded()
    expectFailure(try await fixture.salvor("snapshots"), 1, "VAULT-101")
    try await fixture.restic("-p", third, "check")
  }

  @Test(.timeLimit(.minutes(10)))
  func `objects are listed and shown as restic does`() async throws {
    let fixture = try await VaultFixture.withRepository()
    let dry = try await fixture.salvor("backup", "source", "--dry-run").succeeded()
    #expect(dry.output.contains("nothing was saved"))
    #expect(try await fixture.salvor("list", "packs").succeeded().output.isEmpty, "a dry run stores nothing")
    try await fixture.salvor("backup", "source", "--exclude", "*.log").succeeded()
    #expect(try await !fixture.restic("ls", "latest").output.contains("trace.log"))
    for kind in ["packs", "index", "snapshots", "keys", "blobs"] {
      let ours = try await fixture.salvor("list", kind).succeeded().output.split(separator: "\n").sorted()
      let theirs = try await fixture.restic("list", kind).output.split(separator: "\n").sorted()
      #expect(ours == theirs, "\(kind)")
    }
    let ours = try await fixture.salvor("cat", "config", "--json").succeeded().output
    let theirs = try await fixture.restic("cat", "config").output
    #expect(
      try CanonicalJSON.decode(JSONValue.self, from: Array(ours.utf8))
        == CanonicalJSON.decode(JSONValue.self, from: Array(theirs.utf8)))
    let size = try await fixture.salvor("stats", "latest", "--json").succeeded().output
    let theirSize = try await fixture.restic("stats", "latest", "--json").output
    let (a, b) = (
      try CanonicalJSON.decode(JSONValue.self, from: Array(size.utf8)),
      try CanonicalJSON.decode(JSONValue.self, from: Array(theirSize.utf8))
    )
    #expect(a["total_size"] == b["total_size"] && a["total_file_count"] == b["total_file_count"], "\(a) \(b)")
  }

  @Test func `every help shows an example`() async throws {
    let dump = try await CommandRun([CommandRun.product("salvor"), "--experimental-dump-help"]).succeeded().output
    let all = try CanonicalJSON.decode(JSONValue.self, from: Array(dump.utf8))
    let vault = all["command"]?["subcommands"]?.array?.first { $0["commandName"] == "vault" }
    var pending = [try #require(vault)]
    var count = 0
    while let command = pending.popLast() {
      count += 1
      let text = command["discussion"]?.string ?? ""
      #expect(text.contains("EXAMPLE") && text.contains("\n  salvor vault"), "\(command["commandName"]?.string ?? "")")
      // `help` is made by the parser.
      pending += (command["subcommands"]?.array ?? []).filter { $0["commandName"] != "help" }
    }
    #expect(count == 51, "every command was looked at")
  }

  private static func values(_ text: String) throws -> [JSONValue] {
    try CanonicalJSON.decode([JSONValue].self, from: Array(text.utf8))
  }
}
