import Core
import Foundation
import IO
import ObjectStoreLocal
import TestSupport
import Testing
import Vault

@Suite("salvor vault escrow and key rotate") struct EscrowTests {
  private func json(_ run: CommandRun) throws -> JSONValue {
    try CanonicalJSON.decode(JSONValue.self, from: Array(run.output.utf8))
  }

  /// A pair of keys in files.
  private func keys(_ fixture: VaultFixture, _ name: String) async throws -> (private: String, public: String) {
    let paths = (fixture.directory.file("\(name).key"), fixture.directory.file("\(name).pub"))
    let run = try await fixture.salvor("escrow", "keygen", "--private", paths.0).succeeded()
    try Files.replace(paths.1, with: Array(run.output.utf8))
    return paths
  }

  private static let noPassword = ["RESTIC_PASSWORD_FILE": ""]

  @Test(.timeLimit(.minutes(10)))
  func `a recipient opens the repository, nobody else does, and restic sees nothing of it`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source").succeeded()
    let (alice, bob) = (try await keys(fixture, "alice"), try await keys(fixture, "bob"))
    #expect(try await fixture.shell("stat -c %a \(alice.private)") == "600\n")
    #expect(try await fixture.salvor("escrow", "keygen", "--private", alice.private).status == 1, "never written over")
    let added = try json(
      try await fixture.salvor("escrow", "add", alice.public, "--label", "the notary", "--json").succeeded())
    let id = try #require(added.array?.first?["id"]?.string)
    let listed = try json(
      try await fixture.salvor(["escrow", "list", "--json"], environment: Self.noPassword).succeeded())
    #expect(listed.array?.count == 1 && listed.array?[0]["label"] == "the notary" && listed.array?[0]["stale"] == false)
    #expect(Files.exists("\(fixture.repository)/salvor/escrow/\(id)"))

    let opened = try await fixture.salvor(
      ["--escrow-key", alice.private, "snapshots"], environment: Self.noPassword
    ).succeeded()
    #expect(opened.output.contains("1 snapshot"))
    let target = fixture.directory.file("out")
    try await fixture.salvor(
      ["restore", "latest", "-t", target, "--escrow-key", alice.private], environment: Self.noPassword
    ).succeeded()
    #expect(try await VaultFixture.picture(target + fixture.source) == VaultFixture.picture(fixture.source))
    expectFailure(
      try await fixture.salvor(["--escrow-key", bob.private, "snapshots"], environment: Self.noPassword), 1, "VAULT-217"
    )
    expectFailure(try await fixture.salvor("--escrow-key", alice.private, "-p", "x", "snapshots"), 2, "USAGE-402")

    let recovered = fixture.directory.file("recovered")
    try await fixture.salvor(
      ["escrow", "open", "--escrow-key", alice.private, "--to", recovered], environment: Self.noPassword
    ).succeeded()
    #expect(try Files.read(recovered) == Array(VaultFixture.password.utf8))
    #expect(try await fixture.shell("stat -c %a \(recovered)") == "600\n")
    try await fixture.restic("-p", recovered, "check")
    let shown = try await fixture.salvor(
      ["escrow", "open", "--escrow-key", alice.private, "--show"], environment: Self.noPassword
    ).succeeded()
    #expect(shown.output == VaultFixture.password + "\n")
    #expect(try await fixture.salvor("escrow", "open", "--escrow-key", alice.private).status == 2)

    // restic and Salvor's own work on it as before.
    try await fixture.restic("check", "--read-data")
    try await fixture.salvor("check", "--read-data").succeeded()
    try await fixture.restic("forget", "latest", "--prune")
    try await fixture.salvor("prune").succeeded()
    #expect(Files.exists("\(fixture.repository)/salvor/escrow/\(id)"), "nobody tidies it away")

    try await fixture.salvor("escrow", "remove", String(id.prefix(8))).succeeded()
    expectFailure(
      try await fixture.salvor(["--escrow-key", alice.private, "snapshots"], environment: Self.noPassword), 1,
      "VAULT-217")
  }

  @Test(.timeLimit(.minutes(10)))
  func `a private key that others may read, or that is damaged, is refused`() async throws {
    let fixture = try await VaultFixture.withRepository()
    let alice = try await keys(fixture, "alice")
    try await fixture.salvor("escrow", "add", alice.public).succeeded()
    let key = try Files.read(alice.private)
    try await fixture.shell("chmod 640 \(alice.private)")
    let run = try await fixture.salvor("--escrow-key", alice.private, "snapshots", environment: Self.noPassword)
    expectFailure(run, 1, "VAULT-216", says: "make it 600")
    try Files.replace(alice.private, with: Array(key.dropLast(30)))
    expectFailure(
      try await fixture.salvor("--escrow-key", alice.private, "snapshots", environment: Self.noPassword), 1, "VAULT-216"
    )
    var flipped = key
    flipped[60] = flipped[60] == 65 ? 66 : 65
    try Files.replace(alice.private, with: flipped)
    let damaged = try await fixture.salvor("--escrow-key", alice.private, "snapshots", environment: Self.noPassword)
    expectFailure(damaged, 1, "VAULT-216")
    let secret = String(decoding: key, as: UTF8.self).split(separator: ":")[1].prefix(40)
    #expect(!damaged.errors.contains(secret) && !run.errors.contains(secret))
    try Files.replace(fixture.directory.file("half.pub"), with: Array("salvor-escrow-1:AAAA".utf8))
    expectFailure(try await fixture.salvor("escrow", "add", fixture.directory.file("half.pub")), 1, "VAULT-216")
    expectFailure(try await fixture.salvor("escrow", "add", alice.private), 1, "VAULT-216")
  }

  @Test(.timeLimit(.minutes(10)))
  func `whatever lies there is read with bounds, and one damaged file is in nobody's way`() async throws {
    let fixture = try await VaultFixture.withRepository()
    let alice = try await keys(fixture, "alice")
    let added = try json(try await fixture.salvor("escrow", "add", alice.public, "--json").succeeded())
    let name = try #require(added.array?.first?["id"]?.string)
    let place = "\(fixture.repository)/salvor/escrow"
    let whole = try Files.read("\(place)/\(name)")
    func plant(_ bytes: [UInt8]) throws -> String {
      let id = Digest.of(bytes).hex
      try Files.replace("\(place)/\(id)", with: bytes)
      return id
    }
    let store = try LocalObjectStoreFactory().open(fixture.repository)
    // Every byte of it flipped, under its proper name: damaged, or it opens nothing; never taken for another.
    let key = try await fixture.shell("cat \(alice.private)")
    let privateKey = try EscrowPrivateKey(fileContent: Array(key.utf8))
    var settings = VaultSettings()
    settings.scrypt = ScryptParameters(n: 1024, r: 8, p: 1)
    try await fixture.shell("chmod u+w \(place)/\(name); rm \(place)/\(name)")
    for index in stride(from: 0, to: whole.count, by: 53) {
      var bytes = whole
      bytes[index] ^= 1
      let id = try plant(bytes)
      await #expect(throws: VaultError.self, "byte \(index)") {
        _ = try await Repository.openEscrow(in: store, with: privateKey, settings: settings)
      }
      try await fixture.shell("rm -f \(place)/\(id)")
    }
    var kept: [String] = []
    for text in ["", "{}", "[", "{\"version\":2}", String(repeating: "{\"a\":", count: 3000)] {
      kept.append(try plant(Array(text.utf8)))
    }
    kept.append(try plant([UInt8](repeating: 32, count: 20_000)))
    try Files.replace("\(place)/\(Digest.of("other").hex)", with: whole)
    try Files.replace("\(place)/not-an-id", with: whole)
    let listing = try await Repository.escrows(in: store)
    #expect(listing.files.isEmpty && listing.damaged.count == kept.count + 1)
    _ = try plant(whole)
    let run = try await fixture.salvor("escrow", "list")
    #expect(run.errors.contains("VAULT-215") && run.output.contains("1 recipient"))
    try await fixture.salvor("--escrow-key", alice.private, "snapshots", environment: Self.noPassword).succeeded()
  }

  @Test(.timeLimit(.minutes(10)))
  func `a rotated password says what it changed, and a cold client with the old one is out`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source").succeeded()
    let alice = try await keys(fixture, "alice")
    try await fixture.salvor("escrow", "add", alice.public, "--label", "alice").succeeded()
    let (second, third) = (fixture.directory.file("second"), fixture.directory.file("third"))
    try Files.replace(second, with: Array("second\n".utf8))
    try Files.replace(third, with: Array("third\n".utf8))
    try await fixture.salvor("key", "add", "--new-password-file", second).succeeded()
    let stolen = try await fixture.salvor("cat", "masterkey", "--json").succeeded().output

    let rotated = try json(
      try await fixture.salvor("key", "rotate", "--all-others", "--new-password-file", third, "--json").succeeded())
    #expect(rotated["kind"] == "rewrapped" && rotated["master_key_changed"] == false)
    #expect(rotated["removed"]?.array?.count == 2 && rotated["stale_escrows"]?.array?.count == 1)
    // Cold: nothing of earlier runs, no cache, no state; only the repository and a password that was.
    let home = fixture.directory.file("cold")
    try Files.createDirectory(home)
    let cold = ["HOME": home, "XDG_CACHE_HOME": home, "SALVOR_STATE": home + "/state"]
    for password in [fixture.passwordFile, second] {
      expectFailure(try await fixture.salvor(["-p", password, "snapshots"], environment: cold), 1, "VAULT-101")
      let run = try await CommandRun(
        ["restic", "--no-cache", "-r", fixture.repository, "-p", password, "snapshots"], environment: cold)
      #expect(run.status != 0 && run.errors.contains("wrong password"))
    }
    expectFailure(
      try await fixture.salvor(
        ["--escrow-key", alice.private, "snapshots"], environment: cold.merging(Self.noPassword) { $1 }), 1, "VAULT-101"
    )
    #expect(try await fixture.salvor("escrow", "list").output.contains("stale"))
    try await fixture.restic("-p", third, "check", "--read-data")
    // What rewrapping can't do: the master key is the same, as the command says.
    #expect(try await fixture.salvor("-p", third, "cat", "masterkey", "--json").succeeded().output == stolen)
    let text = try await fixture.salvor("-p", third, "key", "rotate", "--new-password-file", second).succeeded()
    #expect(text.output.contains("rewrapped") && text.output.contains("the master key is the same"))

    // Revoking one of two.
    try await fixture.salvor("-p", second, "key", "add", "--new-password-file", third).succeeded()
    let list = try await fixture.salvor("-p", third, "key", "list", "--json").succeeded()
    let other = try #require(try json(list).array?.first { $0["current"] == false }?["id"]?.string)
    try await fixture.salvor("-p", third, "key", "remove", other).succeeded()
    expectFailure(try await fixture.salvor(["-p", second, "snapshots"], environment: cold), 1, "VAULT-101")
  }

  @Test(.timeLimit(.minutes(10)))
  func `re-encrypting gives a new master key, and goes on after an interruption`() async throws {
    let fixture = try await VaultFixture.withRepository()
    try await fixture.salvor("backup", "source", "--tag", "one").succeeded()
    try fixture.write("plain", Array("changed".utf8))
    try await fixture.salvor("backup", "source", "--tag", "two").succeeded()
    let stolen = try await fixture.salvor("cat", "masterkey", "--json").succeeded().output
    let second = fixture.directory.file("second")
    try Files.replace(second, with: Array("second\n".utf8))
    let to = fixture.directory.file("new")
    let before = try await fixture.repositoryPicture()
    // As a run leaves it that was killed after the first snapshot.
    try await fixture.salvor("-r", to, "-p", second, "init").succeeded()
    try await fixture.salvor(
      "-r", to, "-p", second, "copy", "--from-repo", fixture.repository, "--from-password-file", fixture.passwordFile,
      "--tag", "one"
    ).succeeded()
    let words = ["key", "rotate", "--reencrypt", "--to", to, "--new-password-file", second, "--json"]
    let done = try json(try await fixture.salvor(words).succeeded())
    #expect(done["kind"] == "reencrypted" && done["snapshots"] == 2 && done["copied"] == 1)
    #expect(try json(try await fixture.salvor(words).succeeded())["copied"] == 0, "done is done")
    #expect(try await fixture.repositoryPicture() == before, "the old one is as it was")
    let new = try await fixture.salvor("-r", to, "-p", second, "cat", "masterkey", "--json").succeeded().output
    #expect(new != stolen)
    try await fixture.restic("-r", to, "-p", second, "check", "--read-data")
    expectFailure(try await fixture.salvor("-r", to, "snapshots"), 1, "VAULT-101")
    let old = try json(try await fixture.salvor("snapshots", "--json").succeeded()).array ?? []
    let copies =
      try json(try await fixture.salvor("-r", to, "-p", second, "snapshots", "--json").succeeded()).array ?? []
    #expect(
      copies.map { $0["original"] } == old.map { $0["id"] } && copies.map { $0["tree"] } == old.map { $0["tree"] })
    let target = fixture.directory.file("out")
    try await fixture.salvor("-r", to, "-p", second, "restore", "latest", "-t", target).succeeded()
    #expect(try await VaultFixture.picture(target + fixture.source) == VaultFixture.picture(fixture.source))
    expectFailure(
      try await fixture.salvor(
        "key", "rotate", "--reencrypt", "--to", fixture.repository, "--new-password-file", second), 2, "USAGE-408")
    #expect(try await fixture.salvor("key", "rotate", "--reencrypt", "--new-password-file", second).status == 2)
  }
}
