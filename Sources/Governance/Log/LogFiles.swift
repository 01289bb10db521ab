import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// The files of a log, one system call at a time, so that tests can stop after any of them.
///
/// Paths are relative. Nothing is durable before ``synchronize(_:)`` and, for its name, ``synchronizeDirectory(_:)``.
package protocol LogFiles: Sendable {
  /// `nil` if there is none.
  func read(_ path: String, limitBytes: Int) throws(SystemFailure) -> [UInt8]?
  /// What is in a directory; nothing if there is none.
  func names(in path: String) throws(SystemFailure) -> [String]
  /// Creates or empties a file and fills it.
  func write(_ path: String, _ bytes: [UInt8]) throws(SystemFailure)
  func synchronize(_ path: String) throws(SystemFailure)
  func rename(_ path: String, to other: String) throws(SystemFailure)
  /// Fine if it is there. `""` is the log itself.
  func makeDirectory(_ path: String) throws(SystemFailure)
  func synchronizeDirectory(_ path: String) throws(SystemFailure)
  /// Fine if there is nothing.
  func remove(_ path: String) throws(SystemFailure)
  /// Runs `body` while no other process of this machine does.
  func alone<T>(_ body: () throws(LogError) -> T) throws(LogError) -> T
}

/// A log in a directory. Every call blocks.
package struct LogDirectory: LogFiles {
  package let path: String

  package init(_ path: String) { self.path = path }

  private func full(_ relative: String) -> String { relative.isEmpty ? path : "\(path)/\(relative)" }

  package func read(_ path: String, limitBytes: Int) throws(SystemFailure) -> [UInt8]? {
    do throws(SystemFailure) { return try Files.read(full(path), limitBytes: limitBytes) } catch {
      if error.number == ENOENT || error.number == ENOTDIR { return nil }
      throw error
    }
  }

  package func names(in path: String) throws(SystemFailure) -> [String] {
    do throws(SystemFailure) { return try Files.names(in: full(path)).map(\.lossyText) } catch {
      if error.number == ENOENT { return [] }
      throw error
    }
  }

  package func write(_ path: String, _ bytes: [UInt8]) throws(SystemFailure) {
    let file = try File(full(path), O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW, mode: 0o644)
    try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in try file.write(raw) }
  }

  package func synchronize(_ path: String) throws(SystemFailure) { try File(full(path), O_RDONLY).synchronize() }

  package func rename(_ path: String, to other: String) throws(SystemFailure) {
    try Files.rename(full(path), to: full(other))
  }

  package func makeDirectory(_ path: String) throws(SystemFailure) {
    guard mkdir(full(path), path.isEmpty ? 0o700 : 0o755) == 0 || errno == EEXIST else {
      throw SystemFailure("mkdir", path: full(path))
    }
  }

  package func synchronizeDirectory(_ path: String) throws(SystemFailure) {
    try Files.synchronizeDirectory(full(path))
  }

  package func remove(_ path: String) throws(SystemFailure) {
    guard unlink(full(path)) == 0 || errno == ENOENT else { throw SystemFailure("unlink", path: full(path)) }
  }

  package func alone<T>(_ body: () throws(LogError) -> T) throws(LogError) -> T {
    let lock: File
    do throws(SystemFailure) {
      try Files.createDirectory(path, mode: 0o700)
      lock = try File(full("lock"), O_RDWR | O_CREAT)
      guard retryingInterrupts({ flock(lock.descriptor, LOCK_EX) }) == 0 else {
        throw SystemFailure("flock", path: full("lock"))
      }
    } catch { throw LogError(error) }
    // Let go with the descriptor, when the process dies too.
    defer { _ = flock(lock.descriptor, LOCK_UN) }
    return try body()
  }
}
