import Core
import Foundation
import IO
import ObjectStoreLocal
import TestSupport
import Testing
import Vault

@Suite("Beside restic")
struct InteroperabilityTests {
  @Test(arguments: [1, 2])
  func `restic checks, lists and restores what was written here`(version: Int) async throws {
    let directory = try TemporaryDirectory("vault")
    let path = directory.file("repository")
    let repository = try await Repository.create(
      store: LocalObjectStore(path), password: password, version: version, settings: .quick())
    let files = sampleFiles()
    let id = try await repository.withLock { try await repository.backUp(files, tags: ["mark"]) }

    let restic = Restic(repository: path)
    let checked = try await restic.run("check", "--read-data")
    #expect(checked.text.contains("no errors were found"))
    let listed = try await restic.run("ls", "--json", id.hex).text
    for file in files { #expect(listed.contains("/files/\(file.name)")) }
    try await restic.run("restore", id.hex, "--target", directory.file("out"))
    for file in files {
      #expect(try Files.read(directory.file("out/files/\(file.name)")) == file.pieces.flatMap { $0 }, "\(file.name)")
    }
    let piece = files[2].pieces[1]
    #expect(try await restic.run("cat", "blob", Digest.of(piece).hex).output == piece)
    #expect(try await restic.run("snapshots", "--json", "--tag", "mark").text.contains(id.hex))
    #expect(try await repository.locks().isEmpty, "both have tidied up")

    // Then it goes on: a backup of its own into our repository, and a prune.
    try await restic.run("backup", "out", in: directory.path)
    try await restic.run("forget", "--prune", id.hex)
    let again = try await Repository.open(store: LocalObjectStore(path), password: password)
    #expect(try await again.check(readData: true).findings == [])
    #expect(try await again.snapshots().count == 1)
  }

  @Test(arguments: [1, 2])
  func `what restic wrote is read here to the last byte`(version: Int) async throws {
    let directory = try TemporaryDirectory("vault")
    try Files.createDirectory(directory.file("source/sub"))
    let chance = SeededRandomness(seed: 3)
    for (name, bytes) in [
      ("noise", chance.bytes(3_000_000)), ("text", Array(String(repeating: "words ", count: 100_000).utf8)),
      ("sub/small", [1, 2, 3]), ("sub/empty", []),
    ] { try Files.replace(directory.file("source/\(name)"), with: bytes) }
    let restic = Restic(repository: directory.file("repository"))
    try await restic.run("init", "--repository-version", "\(version)")
    try await restic.run("backup", "source", "--tag", "one,two", "--exclude", "nothing", in: directory.path)

    let repository = try await Repository.open(store: LocalObjectStore(restic.repository), password: password)
    #expect(repository.config.version == version)
    let report = try await repository.check(readData: true)
    #expect(report.findings == [])
    #expect(report.trees == 3 && report.snapshots == 1 && report.readBytes > 3_000_000)
    for kind in BlobKind.allCases {
      let ids = repository.blobIDs(kind)
      #expect(!ids.isEmpty)
      let seen = Shared<[BlobID: Int]>([:])
      try await repository.loadMany(kind, ids + ids, parallel: 3) { (id, bytes) throws(VaultError) in
        seen.withLock { $0[id, default: 0] += 1 }
        #expect(Digest.of(bytes) == id && repository.length(kind, id) == bytes.count)
      }
      #expect(seen.withLock { $0 } == Dictionary(uniqueKeysWithValues: ids.map { ($0, 1) }), "each once")
      for id in ids { #expect(Digest.of(try await repository.load(kind, id)) == id) }
    }
    let snapshot = try await repository.findSnapshot("latest")
    #expect(snapshot.snapshot.tags == ["one", "two"] && snapshot.snapshot.excludes == ["nothing"])
    #expect(snapshot.snapshot.paths == [directory.file("source")])
    #expect(try await repository.findSnapshot(String(snapshot.id.hex.prefix(6))) == snapshot)

    // We go on in restic's repository; what is there is not stored again.
    let text = Array(try Files.read(directory.file("source/sub/small")))
    #expect(try await repository.save(.data, text).added == 0)
    let ours = try await repository.withLock { try await repository.backUp(sampleFiles()) }
    try await restic.run("check", "--read-data")
    #expect(try await restic.run("snapshots", "--json").text.contains(ours.hex))
  }

  @Test func `keys open on both sides`() async throws {
    let directory = try TemporaryDirectory("vault")
    let store = LocalObjectStore(directory.file("repository"))
    let repository = try await Repository.create(store: store, password: password, settings: .quick())
    let restic = Restic(repository: directory.file("repository"))

    // restic adds a key; we open with it.
    try Files.replace(directory.file("new"), with: Array("from restic".utf8))
    try await restic.run("key", "add", "--new-password-file", directory.file("new"))
    let theirs = try await Repository.open(store: store, password: Secret("from restic"), settings: .quick())
    #expect(theirs.keyID != repository.keyID && theirs.config == repository.config)

    // We change our password; restic opens with the new one, and no longer with the old.
    let new = try await repository.changePassword(to: Secret("changed"))
    #expect(repository.keyID == new)
    try await Restic(repository: restic.repository, password: "changed").run("cat", "config")
    let refused = await restic.attempt(["cat", "config"])
    #expect(refused.status != 0 && refused.errors.contains("wrong password or no key found"))
    await #expect(throws: VaultError.wrongPassword(keysTried: 2)) {
      _ = try await Repository.open(store: store, password: password, settings: .quick())
    }
    #expect(try await repository.keys().count == 2)
    await #expect(throws: VaultError.keyInUse(new)) { try await repository.removeKey(new) }
    try await repository.removeKey(theirs.keyID)
    #expect(try await repository.keys().map(\.id) == [new])
    await #expect(throws: VaultError.noSuchKey(theirs.keyID.hex)) { try await repository.removeKey(theirs.keyID) }
  }

  @Test func `each respects the other's locks`() async throws {
    let directory = try TemporaryDirectory("vault")
    let store = LocalObjectStore(directory.file("repository"))
    let restic = Restic(repository: directory.file("repository"))
    let time = SystemTime()
    let repository = try await Repository.create(store: store, password: password, settings: .quick(time: time))

    try await repository.withLock(exclusive: true) {
      let refused = await restic.attempt(["list", "packs"])
      #expect(refused.status != 0 && refused.errors.contains("already locked"), "\(refused.errors)")
    }
    try await repository.withLock {
      try await restic.run("list", "packs")
      // A prune wants it alone.
      let refused = await restic.attempt(["prune"])
      #expect(refused.status != 0 && refused.errors.contains("already locked"), "\(refused.errors)")
      #expect(try await restic.run("list", "locks").text.split(separator: "\n").count >= 1)
    }
    #expect(try await repository.locks().isEmpty)

    // restic holds a shared lock while it waits for its input.
    let backup = try await HeldBackup.start(restic, until: { try await !repository.locks().isEmpty })
    await #expect(throws: VaultError.self) { try await repository.withLock(exclusive: true) {} }
    try await repository.withLock {}
    // Killed, it leaves its lock. Its process is gone from this very host, so the next who comes takes it away.
    backup.kill()
    #expect(try await repository.locks().count == 1)
    try await repository.withLock(exclusive: true) {}
    #expect(try await repository.locks().isEmpty)
  }
}
