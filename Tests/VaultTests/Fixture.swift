import Core
import Foundation
import IO
import ObjectStoreLocal
import Synchronization
import TestSupport
import Vault

let password = Secret("correct horse")

extension VaultSettings {
  /// Cheap keys, small packs: what tests use.
  static func quick(packBytes: Int = 64 << 10, seed: UInt64? = nil, time: any Timekeeper = SystemTime())
    -> VaultSettings
  {
    var settings = VaultSettings()
    settings.scrypt = ScryptParameters(n: 16, r: 1, p: 1)
    settings.packTargetBytes = packBytes
    settings.time = time
    // Simulated time stands still while other threads work.
    if time is SimulatedTime { settings.pool = .inline }
    if let seed { settings.randomness = SeededRandomness(seed: seed) }
    return settings
  }
}

/// A file of a backup made by hand.
struct SampleFile {
  var name: String
  var pieces: [[UInt8]]
}

/// Some files: empty, text that compresses, noise that doesn't, several blobs, shared pieces.
func sampleFiles(seed: UInt64 = 1) -> [SampleFile] {
  let chance = SeededRandomness(seed: seed)
  let text = Array(String(repeating: "the quick brown fox \(seed) ", count: 2000).utf8)
  let noise = chance.bytes(30_000)
  return [
    SampleFile(name: "a-empty", pieces: []),
    SampleFile(name: "b-text", pieces: [text]),
    SampleFile(name: "c-noise", pieces: [noise, chance.bytes(50_000), chance.bytes(1)]),
    SampleFile(name: "d-shared", pieces: [text, noise, text]),
  ]
}

/// Trees in restic's JSON, by hand: the trees of the product are tested elsewhere.
enum HandTree {
  static func json(_ files: [(name: String, size: Int, content: [BlobID])], directories: [(String, BlobID)] = [])
    -> [UInt8]
  {
    let times = ["mtime", "atime", "ctime"].map { "\"\($0)\":\"2026-11-21T08:00:00Z\"" }.joined(separator: ",")
    let owner = "\(times),\"uid\":0,\"gid\":0"
    var nodes = files.map { file in
      let content = file.content.map { "\"\($0.hex)\"" }.joined(separator: ",")
      let start = "{\"name\":\"\(file.name)\",\"type\":\"file\",\"mode\":420,\(owner)"
      return (file.name, "\(start),\"size\":\(file.size),\"links\":1,\"content\":[\(content)]}")
    }
    nodes += directories.map { name, tree in
      let start = "{\"name\":\"\(name)\",\"type\":\"dir\",\"mode\":2147484141,\(owner)"
      return (name, "\(start),\"content\":null,\"subtree\":\"\(tree.hex)\"}")
    }
    nodes.sort { $0.0 < $1.0 }
    return Array("{\"nodes\":[\(nodes.map(\.1).joined(separator: ","))]}\n".utf8)
  }
}

extension Repository {
  /// A backup of files in a directory `files`, by hand; several blobs at a time.
  func backUp(_ files: [SampleFile], tags: [String] = [], time: Timestamp = Timestamp(seconds: 1_795_000_000))
    async throws -> Digest
  {
    // In an order that is the same in every process, for those who count calls.
    let pieces = Set(files.flatMap(\.pieces)).sorted { $0.lexicographicallyPrecedes($1) }
    try await withThrowingTaskGroup(of: Void.self) { group in
      for piece in pieces { group.addTask { _ = try await self.save(.data, piece) } }
      try await group.waitForAll()
    }
    let inner = HandTree.json(
      files.map { file in
        (file.name, file.pieces.reduce(0) { $0 + $1.count }, file.pieces.map { Digest.of($0) })
      })
    let tree = try await save(.tree, inner).id
    let root = try await save(.tree, HandTree.json([], directories: [("files", tree)])).id
    return try await save(
      Snapshot(time: time, tree: root, paths: ["/files"], hostname: "test", username: "tester", tags: tags))
  }

  /// Every file of a snapshot made by `backUp`, read back through the repository.
  func readBack(_ files: [SampleFile]) async throws {
    for file in files {
      for piece in file.pieces {
        guard try await load(.data, Digest.of(piece)) == piece else {
          throw Restic.Refused(description: "\(file.name) differs")
        }
      }
    }
  }
}

/// A value that several tasks of a test change.
final class Shared<Value: Sendable>: Sendable {
  private let mutex: Mutex<Value>
  init(_ value: Value) { mutex = Mutex(value) }
  func withLock<T: Sendable>(_ body: @Sendable (inout Value) -> T) -> T {
    mutex.withLock { value in
      let result = body(&value)
      return result
    }
  }
  var value: Value { withLock { $0 } }
}
