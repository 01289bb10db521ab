import Core
import DriverContract
import DriverFiles
import DriverKit
import Glibc
import IO
import TestSupport

/// A tree whose writers take a lock, each record a file; or one whose writers don't.
struct FilesFixture: DriverFixture {
  let directory: TemporaryDirectory
  var root: String { directory.file("documents") }
  var livePaths: [String] { [root] }

  static func start() async throws -> FilesFixture {
    let fixture = FilesFixture(directory: try TemporaryDirectory("files"))
    try await BlockingPool.shared.run {
      try Files.createDirectory(fixture.root + "/records/deep/er")
      try Files.createDirectory(fixture.root + "/empty", mode: 0o750)
      try Files.replace(fixture.root + "/.lock", with: [])
      try Files.replace(fixture.root + "/records/readme", with: Array("plain\ntext".utf8), mode: 0o640)
      try Files.replace(fixture.root + "/records/deep/er/more", with: [UInt8](repeating: 7, count: 300_000))
      guard symlink("/etc/passwd", fixture.root + "/records/link") == 0, mkfifo(fixture.root + "/pipe", 0o600) == 0,
        link(fixture.root + "/records/readme", fixture.root + "/records/again") == 0
      else { throw SystemFailure("link") }
    }
    for number in Int64(1)...5 { try await fixture.write(number, payload: Payload.of(number)) }
    return fixture
  }

  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver {
    if case .liveState(let directory) = variant { return try driver(["path": .string(directory + "/documents")]) }
    return try driver(["path": .string(root), "lockFile": ".lock"])
  }

  func driver(_ options: [String: JSONValue]) throws -> any DataStoreDriver {
    try FilesDriverFactory.make(StoreConfiguration(name: "documents", options: options), in: .live)
  }

  func write(_ number: Int64, payload: String) async throws {
    let root = root
    try await BlockingPool.shared.run {
      let lock = try File(root + "/.lock", O_RDONLY)
      guard retryingInterrupts({ flock(lock.descriptor, LOCK_SH) }) == 0 else { throw SystemFailure("flock") }
      try Files.replace("\(root)/records/\(number).txt", with: Array(payload.utf8))
      withExtendedLifetime(lock) {}
    }
  }

  func records() async throws -> Set<Int64> {
    let root = root
    return try await BlockingPool.shared.run {
      Set(
        try Files.names(in: root + "/records").compactMap { name in
          let text = name.lossyText
          return text.hasSuffix(".txt") && !text.hasPrefix(".") ? Int64(text.dropLast(4)) : nil
        })
    }
  }

  func destroyLive() async throws { try Files.removeTree(root) }

  func shutDown() async {}
}

/// The same tree without the lock.
struct LooseFilesFixture: DriverFixture {
  let files: FilesFixture
  var livePaths: [String] { files.livePaths }
  var isHeld: Bool { false }

  static func start() async throws -> LooseFilesFixture { LooseFilesFixture(files: try await .start()) }

  func driver(_ variant: DriverVariant) throws -> any DataStoreDriver {
    if case .liveState = variant { return try files.driver(variant) }
    return try files.driver(["path": .string(files.root)])
  }

  func write(_ number: Int64, payload: String) async throws { try await files.write(number, payload: payload) }
  func records() async throws -> Set<Int64> { try await files.records() }
  func destroyLive() async throws { try await files.destroyLive() }
  func shutDown() async {}
}
