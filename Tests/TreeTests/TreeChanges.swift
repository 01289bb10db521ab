import Core
import Foundation
import IO
import TestSupport

/// What becomes of a tree between two backups: files grow, shrink, change in the middle, move, vanish and appear; the
/// same for the same seed.
struct TreeChanges {
  private let random: SeededRandomness
  private let root: String

  /// - Parameter chance: Of each entry, to be changed.
  static func make(seed: UInt64, at root: String, chance: Double = 0.35) throws {
    try TreeChanges(random: SeededRandomness(seed: seed &* 7919 &+ 5), root: root).run(seed, chance)
  }

  private func run(_ seed: UInt64, _ chance: Double) throws {
    var maker = TreeMaker(seed: seed &+ 99, entries: 0, lossyLinks: false)
    // Whole directories that came with an earlier change stay together.
    for entry in try TreeReader.scan(root) where random.chance(chance) {
      let path = entry.path.bytes(below: root)
      // Gone with the directory that it was in.
      guard exists(path) else { continue }
      switch random.below(8) {
      case 0 where entry.metadata.kind == .regular: try append(path)
      case 1 where entry.metadata.kind == .regular:
        try check(withPath(path) { truncate($0, off_t(random.below(900))) }, "truncate")
      case 2 where entry.metadata.kind == .regular: try overwrite(path, Int(entry.metadata.size))
      case 3:
        let moved = entry.path.parent.appending(FileName(bytes: maker.name())).bytes(below: root)
        if !exists(moved) { try check(withPath(path) { from in withPath(moved) { rename(from, $0) } }, "rename") }
      case 4 where !entry.metadata.kind.isDirectory: try check(withPath(path) { unlink($0) }, "unlink")
      case 5 where !isLink(entry): try check(withPath(path) { chmod($0, mode_t(random.below(0o10000))) }, "chmod")
      case 6 where !entry.metadata.kind.isDirectory:
        // A directory in a file's place.
        try check(withPath(path) { unlink($0) }, "unlink")
        try check(withPath(path) { mkdir($0, 0o755) }, "mkdir")
      default: try check(withPath(path) { lchown($0, uid_t(random.below(3000)), gid_t(random.below(3000))) }, "chown")
      }
    }
    if random.chance(0.6) {
      try TreeMaker.make(seed: seed &+ 17, at: "\(root)/new-\(seed)", entries: 4, lossyLinks: false)
    }
  }

  private func isLink(_ entry: TreeEntry) -> Bool {
    if case .symbolicLink = entry.metadata.kind { true } else { false }
  }

  private func exists(_ path: [UInt8]) -> Bool {
    var status = stat()
    return withPath(path) { lstat($0, &status) } == 0
  }

  private func append(_ path: [UInt8]) throws {
    let file = try opened(path)
    let size = try file.status().st_size
    try write(random.bytes(1 + random.below(5000)), Int64(size), file)
  }

  private func overwrite(_ path: [UInt8], _ size: Int) throws {
    let file = try opened(path)
    try write(random.bytes(1 + random.below(40)), Int64(random.below(max(1, size))), file)
  }

  private func opened(_ path: [UInt8]) throws -> File {
    let descriptor = withPath(path) { open($0, O_RDWR) }
    try check(descriptor, "open")
    return File(adopting: descriptor, path: String(decoding: path, as: UTF8.self))
  }

  private func write(_ bytes: [UInt8], _ offset: Int64, _ file: File) throws {
    try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in try file.write(raw, at: offset) }
  }
}
