import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A directory of files that are written once and never change, under a lock that whoever copies them can take.
///
/// The writer holds `.salvor-hold` shared while files appear; who wants the directory to stand still takes it
/// exclusively (flock(2)). A temporary file has a leading dot and exists only while the lock is held.
final class StatementDirectory: StoreConnection {
  static let lockName = ".salvor-hold"

  let path: String
  private let writes: Bool
  private var lock: File?
  /// Written under a temporary name since ``begin()``; named by their targets.
  private var pending: [String: Pending] = [:]
  private var touched: Set<String> = []

  private struct Pending {
    var file: File
    var directory: String
  }

  /// - Parameter writes: Whether transactions take the lock; who only looks does not wait for it.
  init(_ path: String, writes: Bool) throws(BankError) {
    (self.path, self.writes) = (path, writes)
    guard Files.isDirectory(path) else { throw .storeAway("\(path) is not a directory") }
    // Read once before anything is written or promised.
    if !writes { _ = try count() }
  }

  /// How many statements there are. O(*n*).
  func count() throws(BankError) -> Int {
    do {
      var count = 0
      for customer in try Files.names(in: path) where customer.bytes.first != UInt8(ascii: ".") {
        count += try Files.names(in: "\(path)/\(customer.lossyText)").count { $0.bytes.first != UInt8(ascii: ".") }
      }
      return count
    } catch {
      throw .storeAway(error.report.summary)
    }
  }

  var isCurrent: Bool { Files.isDirectory(path) }

  func begin() throws(BankError) {
    guard writes else { return }
    // flock is not fair: without a gap between two batches, who wants the directory to stand still might never get it.
    usleep(1000)
    do {
      // A new description each time: flock belongs to the description, and the file may have been replaced.
      let file = try File("\(path)/\(Self.lockName)", O_RDWR | O_CREAT, mode: 0o644)
      guard retryingInterrupts({ flock(file.descriptor, LOCK_SH) }) == 0 else {
        throw SystemFailure("flock", path: path)
      }
      lock = file
    } catch {
      throw .storeAway(AnyFailure(error).report.summary)
    }
  }

  /// Writes `<customer>/<name>`, to appear with ``commit()``; an existing file of that name is taken to be the same one.
  func write(customer: String, name: String, content: String) throws(BankError) {
    do {
      let directory = "\(path)/\(customer)"
      let target = "\(directory)/\(name)"
      if pending[target] != nil || Files.exists(target) { return }
      if !Files.exists(directory) {
        try Files.createDirectory(directory)
        touched.insert(path)
      }
      let file = try File("\(path)/.tmp-\(name)", O_WRONLY | O_CREAT | O_TRUNC, mode: 0o644)
      pending[target] = Pending(file: file, directory: directory)
      try Array(content.utf8).withRawBytes { (raw) throws(SystemFailure) in try file.write(raw) }
    } catch {
      throw .storeAway(AnyFailure(error).report.summary)
    }
  }

  /// Content first, then names, then directories: each kind together, so that most calls find their work done by the
  /// file system's one journal commit.
  func commit() throws(BankError) {
    do {
      for one in pending.values { try one.file.synchronize() }
      for (target, one) in pending {
        try Files.rename(one.file.path, to: target)
        touched.insert(one.directory)
        pending[target] = nil
      }
      for directory in touched { try Files.synchronizeDirectory(directory) }
    } catch {
      throw .storeAway(AnyFailure(error).report.summary)
    }
    touched.removeAll(keepingCapacity: true)
    lock = nil
  }

  func rollback() {
    for one in pending.values { unlink(one.file.path) }
    pending.removeAll(keepingCapacity: true)
    touched.removeAll(keepingCapacity: true)
    lock = nil
  }
}
