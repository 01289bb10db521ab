import CCrypt
import Core
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// Who may come in: names and hashes from a file, which is read again when it changes.
///
/// Hashes are slow on purpose; a password that was right once is remembered as a keyed hash until the file changes, so a
/// backup of ten thousand requests costs one. An unknown name costs as much as a wrong password.
final class Users: Sendable {
  private struct State {
    var hashes: [String: String] = [:]
    var stamp: FileStamp?
    var proved: [String: Digest] = [:]
  }

  private struct FileStamp: Equatable {
    var inode: UInt64
    var size: Int64
    var modified: [Int64]
  }

  private let path: String
  private let log: @Sendable (String) -> Void
  private let key: [UInt8]
  private let pool: BlockingPool
  /// Few threads: whoever guesses passwords must not take all cores.
  private let hashing = BlockingPool(threads: 2)
  private let state = Mutex(State())

  /// - Throws: `.usersFile` unless every line can be used.
  init(
    _ path: String, pool: BlockingPool, randomness: any Randomness, log: @escaping @Sendable (String) -> Void
  ) async throws(ServerFailure) {
    (self.path, self.pool, self.log) = (path, pool, log)
    key = randomness.bytes(32)
    let (hashes, stamp) = try await pool.run { () throws(ServerFailure) in try Self.read(path) }
    state.withLock { ($0.hashes, $0.stamp) = (hashes, stamp) }
  }

  /// - Returns: Whether this is the user's password.
  func admits(_ name: String, _ password: String) async -> Bool {
    await refresh()
    // Neither can be told from the other by its length: a NUL never stands in either.
    let proof = Digest.of(key + Array(name.utf8) + [0] + Array(password.utf8))
    let (hash, proved) = state.withLock { ($0.hashes[name] ?? $0.hashes.values.first, $0.proved[name]) }
    if let proved, constantTimeEqual(proved.bytes, proof.bytes) { return true }
    guard let hash, !password.utf8.contains(0), password.utf8.count <= 1024 else { return false }
    let matches = await hashing.run { Self.matches(password, hash) }
    return state.withLock { state in
      guard matches, state.hashes[name] == hash else { return false }
      state.proved[name] = proof
      return true
    }
  }

  private func refresh() async {
    let path = path
    let known = state.withLock { $0.stamp }
    guard await pool.run({ Self.stamp(path) != known }) else { return }
    do {
      let (hashes, stamp) = try await pool.run { () throws(ServerFailure) in try Self.read(path) }
      state.withLock { ($0.hashes, $0.stamp, $0.proved) = (hashes, stamp, [:]) }
    } catch {
      log("\(path) can't be used as it is now; the users stay as they were")
    }
  }

  // MARK: The file

  private static func stamp(_ path: String) -> FileStamp? {
    var status = Glibc.stat()
    guard stat(path, &status) == 0 else { return nil }
    return FileStamp(
      inode: UInt64(status.st_ino), size: Int64(status.st_size),
      modified: [Int64(status.st_mtim.tv_sec), Int64(status.st_mtim.tv_nsec)])
  }

  private static func read(_ path: String) throws(ServerFailure) -> (hashes: [String: String], stamp: FileStamp?) {
    let stamp = stamp(path)
    let bytes: [UInt8]
    do throws(SystemFailure) { bytes = try Files.read(path, limitBytes: 1 << 20) } catch {
      throw .usersFile(path, error.message.lowercased())
    }
    var hashes: [String: String] = [:]
    let lines = String(decoding: bytes, as: UTF8.self).split(
      omittingEmptySubsequences: false, whereSeparator: \.isNewline)
    for (number, line) in lines.enumerated() where !line.isEmpty && !line.hasPrefix("#") {
      let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
      guard parts.count == 2, RepositoryPath.isName(parts[0]) else {
        throw .usersFile(
          path, "line \(number + 1) is not `name:hash`, with a name of letters, digits, '-', '_' and '.'")
      }
      guard ["$2a$", "$2b$", "$2y$", "$6$", "$7$", "$y$"].contains(where: { parts[1].hasPrefix($0) }),
        matches("", parts[1], isTrial: true)
      else { throw .usersFile(path, "line \(number + 1) has a hash of an unknown or weak kind") }
      guard hashes.updateValue(parts[1], forKey: parts[0]) == nil else {
        throw .usersFile(path, "line \(number + 1) names \(parts[0]) a second time")
      }
    }
    guard !hashes.isEmpty else { throw .usersFile(path, "it names nobody") }
    return (hashes, stamp)
  }

  /// - Parameter isTrial: Only whether the hash can be computed at all, as its own salt.
  private static func matches(_ password: String, _ hash: String, isTrial: Bool = false) -> Bool {
    let data = UnsafeMutablePointer<crypt_data>.allocate(capacity: 1)
    memset(data, 0, MemoryLayout<crypt_data>.size)
    defer {
      explicit_bzero(data, MemoryLayout<crypt_data>.size)
      data.deallocate()
    }
    guard let result = crypt_r(password, hash, data) else { return false }
    let computed = String(cString: result)
    // What libxcrypt can't do begins with a star.
    guard !computed.hasPrefix("*") else { return false }
    return isTrial ? computed.utf8.count == hash.utf8.count : constantTimeEqual(Array(computed.utf8), Array(hash.utf8))
  }
}
