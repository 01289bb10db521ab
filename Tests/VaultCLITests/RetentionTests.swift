import Core
import Foundation
import IO
import TestSupport
import Testing
import Vault

@Suite("salvor vault forget, prune and tag") struct RetentionTests {
  private func ids(_ fixture: VaultFixture) async throws -> [String] {
    let listed = try await fixture.salvor("snapshots", "--json").succeeded().output
    let value = try CanonicalJSON.decode(JSONValue.self, from: Array(listed.utf8))
    return value.array?.compactMap { $0["id"]?.string } ?? []
  }

  @Test(.timeLimit(.minutes(10)))
  func `a policy removes, a prune frees, and restic finds the rest whole`() async throws {
    let fixture = try await VaultFixture.withRepository()
    for seed in 1...4 as ClosedRange<UInt64> {
      try fixture.write("changing", SeededRandomness(seed: seed).bytes(300_000))
      try await fixture.salvor("backup", "source").succeeded()
    }
    let before = try await ids(fixture)
    #expect(before.count == 4)
    let dry = try await fixture.salvor("forget", "--keep-last", "2", "--dry-run").succeeded()
    #expect(dry.output.contains("2 snapshots would be removed"))
    #expect(try await ids(fixture) == before)

    let bare = try await fixture.salvor("forget")
    #expect(bare.status == 2 && bare.errors.contains("--keep-"), "no policy is no reason to remove everything")

    let run = try await fixture.salvor("forget", "--keep-last", "2", "--prune", "--max-unused", "0").succeeded()
    #expect(run.output.contains("2 snapshots removed") && run.output.contains("freed"))
    #expect(try await ids(fixture) == Array(before.suffix(2)))
    try await fixture.restic("check", "--read-data")
    try await fixture.restic("restore", "latest", "--target", fixture.directory.file("out"))
    #expect(
      try await VaultFixture.picture(fixture.directory.file("out") + fixture.source)
        == VaultFixture.picture(fixture.source))
    let again = try await fixture.salvor("prune", "--json").succeeded().output
    let report = try CanonicalJSON.decode(JSONValue.self, from: Array(again.utf8))
    #expect(report["freedBytes"] == 0 && report["unused"]?["blobs"] == 0)
  }

  @Test(.timeLimit(.minutes(10)))
  func `logs count in no policy and lose nothing out of their middle`() async throws {
    let fixture = try await VaultFixture.withRepository()
    for tags in [
      "salvor-log,store:db,log:1-1", "salvor,store:db,point:P1", "salvor-log,store:db,log:2-2",
      "salvor-log,store:db,log:3-3", "plain", "plain",
    ] {
      try fixture.write("changing", Array(tags.utf8))
      try await fixture.salvor("backup", "source", "--tag", tags).succeeded()
    }
    let all = try await ids(fixture)
    let run = try await fixture.salvor("forget", "--keep-last", "1", "--group-by", "", "--json").succeeded()
    #expect(run.output.contains("log that leads on from a copy"))
    #expect(try await ids(fixture) == [all[0], all[2], all[3], all[5]], "the point went by the policy, the log stayed")
    let odd = try await fixture.salvor(
      "forget", "--tag", "salvor-log", "--keep-tag", "log:2-2", "--json")
    try odd.succeeded()
    #expect(try await ids(fixture) == [all[2], all[3], all[5]], "\(odd)")
  }

  @Test(.timeLimit(.minutes(10)))
  func `recovery points stay whole`() async throws {
    let fixture = try await VaultFixture.withRepository()
    func take(_ tags: String, _ content: String) async throws {
      try fixture.write("plain", Array(content.utf8))
      try await fixture.salvor("backup", "source", "--tag", tags).succeeded()
    }
    try await take("salvor,store:db,point:P1", "one")
    try await take("salvor-point,point:P1", "two")
    try await take("salvor,store:db,point:P2", "three")
    let all = try await ids(fixture)
    // The policy alone would keep the point and remove what it consists of.
    let run = try await fixture.salvor("forget", "--keep-tag", "salvor-point", "--json").succeeded()
    #expect(run.output.contains("belongs to point P1"))
    #expect(try await ids(fixture) == Array(all.prefix(2)))
    let single = try await fixture.salvor("forget", String(all[0].prefix(8)))
    #expect(single.status == 6 && single.errors.contains("VAULT-162"), "\(single.errors)")
    let tag = try await fixture.salvor("tag", "--add", "x", String(all[0].prefix(8)))
    #expect(tag.status == 6 && tag.errors.contains("VAULT-163"), "\(tag.errors)")
    #expect(try await ids(fixture) == Array(all.prefix(2)))
    let lost = try await fixture.salvor("forget", "--keep-tag", "nothing-has-it")
    #expect(lost.status == 6 && lost.errors.contains("VAULT-161"), "\(lost.errors)")
    try await fixture.salvor("forget", String(all[0].prefix(8)), String(all[1].prefix(8))).succeeded()
    #expect(try await ids(fixture).isEmpty)
  }

  @Test(.timeLimit(.minutes(10)))
  func `tags change, and the first name is kept`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source", "--tag", "a,b").succeeded()
    let first = try await ids(fixture)
    try await fixture.salvor("tag", "--add", "c", "--remove", "a").succeeded()
    try await fixture.salvor("tag", "--add", "d").succeeded()
    let listed = try await fixture.restic("snapshots", "--json").output
    let snapshot = try #require(
      try CanonicalJSON.decode(JSONValue.self, from: Array(listed.utf8)).array?.first)
    #expect(snapshot["tags"] == ["b", "c", "d"])
    #expect(snapshot["original"]?.string == first[0])
    try await fixture.restic("check")
    #expect(try await fixture.salvor("tag", "--add", "point:x").status == 2)
  }
}

@Suite("salvor vault copy and repair") struct CopyTests {
  @Test(.timeLimit(.minutes(10)))
  func `a copy is found whole by restic, and not made twice`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source", "--tag", "a").succeeded()
    var second = fixture
    second.repository = fixture.directory.file("second")
    try await second.create()
    let from = ["RESTIC_FROM_REPOSITORY": fixture.repository, "RESTIC_FROM_PASSWORD_FILE": fixture.passwordFile]
    let none = try await second.salvor("copy")
    #expect(none.status == 2 && none.errors.contains("USAGE-407"), "\(none.errors)")
    let first = try await second.salvor("copy", environment: from).succeeded()
    #expect(first.output.contains("1 snapshot copied"))
    #expect(try await second.salvor("copy", environment: from).succeeded().output.contains("0 snapshots copied"))
    try await second.restic("check", "--read-data")
    try await second.restic("restore", "latest", "--target", fixture.directory.file("out"))
    #expect(
      try await VaultFixture.picture(fixture.directory.file("out") + fixture.source)
        == VaultFixture.picture(fixture.source))
    let itself = try await fixture.salvor("copy", environment: from)
    #expect(itself.status == 2 && itself.errors.contains("USAGE-408"), "\(itself.errors)")
  }

  @Test(.timeLimit(.minutes(10)))
  func `indexes come back from the packs`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source").succeeded()
    try await fixture.shell("rm \(fixture.repository)/index/*")
    #expect(try await fixture.salvor("check").status == 4)
    let dry = try await fixture.salvor("repair", "index", "--dry-run").succeeded()
    #expect(dry.output.contains("1 index file would be written"))
    try await fixture.salvor("repair", "index").succeeded()
    try await fixture.salvor("check", "--read-data").succeeded()
    try await fixture.restic("check", "--read-data")
  }
}

@Suite("salvor vault diff, find and dump") struct LookTests {
  @Test(.timeLimit(.minutes(10)))
  func `diff, find and dump agree with restic`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source").succeeded()
    try fixture.write("plain", Array("changed\n".utf8))
    try fixture.write("sub/deep/large", SeededRandomness(seed: 8).bytes(2 << 20))
    try await fixture.shell(
      "rm second; mkdir -p new/dir; echo x > new/dir/file; chmod 600 sub/trace.log; rm link; mkdir link")
    try await fixture.salvor("backup", "source").succeeded()
    let listed = try await fixture.restic("snapshots", "--json").output
    let ids = try #require(
      CanonicalJSON.decode(JSONValue.self, from: Array(listed.utf8)).array?.compactMap { $0["id"]?.string })
    for more in [[], ["--metadata"]] {
      let ours = try await CommandRunLines(fixture.salvor(["diff", ids[0], ids[1]] + more).succeeded().output)
      let theirs = try await CommandRunLines(fixture.restic(["diff", ids[0], ids[1]] + more).output)
      #expect(ours.changes == theirs.changes && ours.changes.count >= 6, "\(more)")
    }
    func values(_ text: String) throws -> [JSONValue] {
      try text.split(separator: "\n").map { try CanonicalJSON.decode(JSONValue.self, from: Array($0.utf8)) }
    }
    let ours = try values(try await fixture.salvor("diff", ids[0], ids[1], "--json").succeeded().output)
    #expect(try values(try await fixture.restic("diff", ids[0], ids[1], "--json").output) == ours)

    let found = try await fixture.salvor("find", "*.log", "-s", "latest").succeeded().output
    #expect(found.contains("\(fixture.source)/sub/trace.log\n"))
    #expect(try await fixture.salvor("find", "PLAIN", "-i").succeeded().output.split(separator: "\n").count == 4)
    #expect(try await fixture.salvor("find", "PLAIN").status == 1)

    let dump = try await fixture.salvor("dump", ids[0], "\(fixture.source)/plain").succeeded().output
    #expect(dump == "hello\n")
    let large = fixture.directory.file("dumped")
    try await fixture.shell(
      """
      export RESTIC_REPOSITORY=\(fixture.repository) RESTIC_PASSWORD_FILE=\(fixture.passwordFile)
      \(CommandRun.product("salvor")) vault dump latest \(fixture.source)/sub/deep/large > \(large)
      cmp \(large) \(fixture.source)/sub/deep/large
      """)
    #expect(try await fixture.salvor("dump", "latest", fixture.source + "/nowhere").status != 0)
  }
}

/// The lines of a diff that tell of changes.
private struct CommandRunLines {
  var changes: [String]

  init(_ output: String) {
    changes = output.split(separator: "\n").map(String.init).filter {
      $0.count > 5 && $0.dropFirst(5).hasPrefix("/") && $0.prefix(5).allSatisfy { "+-MTU ".contains($0) }
    }
  }
}
