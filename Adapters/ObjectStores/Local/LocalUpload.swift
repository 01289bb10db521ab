import Core
import IO
import Synchronization
import Vault

#if canImport(Glibc)
  import Glibc
#endif

/// An object that arrives in pieces; seen by nobody until it is whole, right and durable.
///
/// What is let go without ``commit()`` leaves nothing.
package final class LocalUpload: Sendable {
  private let store: LocalObjectStore
  private let name: ObjectName
  private let file: File
  private let pool: BlockingPool
  private let digest = Mutex(RunningDigest())
  private let count = Mutex(0)
  private let isDiscarded = Mutex(false)

  fileprivate init(_ store: LocalObjectStore, _ name: ObjectName, _ file: File, _ pool: BlockingPool) {
    (self.store, self.name, self.file, self.pool) = (store, name, file, pool)
  }

  deinit { discard() }

  /// Takes the temporary name away, once: another upload may get the same.
  private func discard() {
    let isMine = isDiscarded.withLock { isDiscarded in
      defer { isDiscarded = true }
      return !isDiscarded
    }
    if isMine { unlink(file.path) }
  }

  package var sizeBytes: Int { count.withLock { $0 } }

  /// Pieces are appended one after another, never at the same time.
  package func append(_ bytes: [UInt8]) async throws(StoreError) {
    try await pool.run { [self] () throws(StoreError) in
      do throws(SystemFailure) {
        try bytes.withRawBytes { (raw) throws(SystemFailure) in try file.write(raw) }
      } catch { throw StoreError(error) }
      digest.withLock { $0.update(bytes) }
      count.withLock { $0 += bytes.count }
    }
  }

  /// Stores what has arrived; durable when it returns.
  ///
  /// - Returns: `false` if the same object was there already.
  /// - Throws: `.corrupt` if the content's SHA-256 is not the object's name, `.exists` if the name has other content.
  package func commit() async throws(StoreError) -> Bool {
    // Whoever hears of a refusal finds nothing left of it.
    defer { discard() }
    let (found, size) = (digest.withLock { $0.finish() }, sizeBytes)
    if let id = name.id, id != found { throw .corrupt(name, "what arrived has the hash \(found)") }
    return try await pool.run { [self] () throws(StoreError) in
      if try store.publish(file, as: name) { return true }
      let path = store.path(name)
      do throws(SystemFailure) {
        let there = try File(path, O_RDONLY)
        var (digest, buffer, done) = (RunningDigest(), [UInt8](repeating: 0, count: 1 << 20), Int64(0))
        if Int(try there.status().st_size) == size {
          while done < size {
            let offset = done
            let got = try buffer.withMutableRawBytes { (raw) throws(SystemFailure) in
              try there.read(at: offset, into: raw)
            }
            if got == 0 { break }
            digest.update(got == buffer.count ? buffer : Array(buffer.prefix(got)))
            done += Int64(got)
          }
        }
        guard Int(done) == size, digest.finish() == found else {
          throw SystemFailure("link", path: nil, number: EEXIST)
        }
        // Its first writer may have crashed before it was durable.
        try there.synchronize()
        try Files.synchronizeDirectory(Files.parent(of: path))
        return false
      } catch { throw error.number == EEXIST ? .exists(name) : StoreError(error, name) }
    }
  }
}

/// An object open for reading, which a later delete doesn't take away.
package final class LocalDownload: Sendable {
  private let file: File
  private let pool: BlockingPool
  package let sizeBytes: Int

  fileprivate init(_ file: File, sizeBytes: Int, _ pool: BlockingPool) {
    (self.file, self.sizeBytes, self.pool) = (file, sizeBytes, pool)
  }

  /// - Returns: `count` bytes from `offset`; fewer only if the file has become shorter.
  package func read(at offset: Int, count: Int) async throws(StoreError) -> [UInt8] {
    try await pool.run { [file] () throws(StoreError) in
      var bytes = [UInt8](repeating: 0, count: count)
      do throws(SystemFailure) {
        let got = try bytes.withMutableRawBytes { (raw) throws(SystemFailure) in
          try file.read(at: Int64(offset), into: raw)
        }
        bytes.removeLast(count - got)
      } catch { throw StoreError(error) }
      return bytes
    }
  }
}

extension LocalObjectStore {
  package func beginUpload(_ name: ObjectName) async throws(StoreError) -> LocalUpload {
    try await pool.run { [self] () throws(StoreError) in LocalUpload(self, name, try beginFile(name), pool) }
  }

  package func beginDownload(_ name: ObjectName) async throws(StoreError) -> LocalDownload {
    try await pool.run { [self] () throws(StoreError) in
      do throws(SystemFailure) {
        let file = try File(path(name), O_RDONLY)
        return LocalDownload(file, sizeBytes: Int(try file.status().st_size), pool)
      } catch { throw StoreError(error, name) }
    }
  }
}
