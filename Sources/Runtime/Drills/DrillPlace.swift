import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A drill's own directory, which says whether anybody still lives who needs it: a lock that goes with its process.
final class DrillPlace: Sendable {
  let directory: String
  private let alive: File

  /// Makes it. Blocks.
  init(_ id: String, host: Machine) throws(SystemFailure) {
    let all = host.path("drills")
    try Files.createDirectory(all, mode: 0o755)
    directory = "\(all)/\(id)"
    try Files.createDirectory(directory, mode: 0o711)
    // Before the directory is worth anything: what has no lock is abandoned.
    let descriptor = open("\(directory)/alive", O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw SystemFailure("open", path: "\(directory)/alive") }
    alive = File(adopting: descriptor, path: "\(directory)/alive")
    guard flock(descriptor, LOCK_EX | LOCK_NB) == 0 else { throw SystemFailure("flock", path: directory) }
  }

  /// Whether nobody holds it any more. Blocks, briefly.
  static func isAbandoned(_ directory: String) -> Bool {
    let descriptor = open("\(directory)/alive", O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return true }
    defer { close(descriptor) }
    return flock(descriptor, LOCK_SH | LOCK_NB) == 0
  }

  /// Removes what drills left whose process was killed; their programs and mounts went with it. Blocks.
  ///
  /// - Returns: How many there were.
  static func sweep(_ host: Machine) throws(SystemFailure) -> Int {
    let all = host.path("drills")
    guard Files.isDirectory(all) else { return 0 }
    var count = 0
    for name in try Files.names(in: all).map(\.lossyText) where isAbandoned("\(all)/\(name)") {
      try Files.removeTree("\(all)/\(name)")
      count += 1
    }
    return count
  }

  func remove() throws(SystemFailure) { try Files.removeTree(directory) }
}
