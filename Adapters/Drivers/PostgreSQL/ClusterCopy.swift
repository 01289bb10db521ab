import Core
import DriverKit
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// Moves a live cluster's files into a sink, a few at a time, at the sink's pace.
struct ClusterCopy: Sendable {
  /// Enough to keep a disk and the sink busy without starving the server.
  static let width = 2

  /// Every how many bytes files of relations are cut: a changed page changes one part, and each part costs some hundred
  /// bytes in the repository, and some in memory. Of a cluster that has a copy the parts stay as they are.
  static func partBytes(forClusterOf bytes: Int64) -> Int {
    switch bytes {
    case ..<(64 << 30): 32 << 10
    case ..<(512 << 30): 64 << 10
    default: 128 << 10
    }
  }

  var sink: any TreeSink
  var pool: BlockingPool
  /// `nil` if the cluster has no page checksums.
  var verifyingSince: LogSequenceNumber?
  var partBytes = RestoreFacts.formerPartBytes
  /// What need not be read, by where it goes.
  var kept: [TreePath: Increment.Parts] = [:]
  var unjudged = UnjudgedPages()
  var counter: ByteCounter

  func copy(_ files: [ClusterFile]) async throws(DriverError) {
    do {
      try await withThrowingTaskGroup(of: Void.self) { group in
        var next = 0
        while next < min(Self.width, files.count) {
          let file = files[next]
          group.addTask { try await copy(file) }
          next += 1
        }
        while try await group.next() != nil {
          guard next < files.count else { continue }
          let file = files[next]
          group.addTask { try await copy(file) }
          next += 1
        }
      }
    } catch {
      throw DriverError(error)
    }
  }

  /// Copies one file; one that is gone by now is fine, the log says that it went.
  func copy(_ file: ClusterFile) async throws(DriverError) {
    try throwIfCancelled()
    if file.kind == .directory { return try await add(file.target, file.metadata, .content, nil) }
    if let parts = kept[file.target] { return try await copy(file, keeping: parts) }
    let opened = try await pool.run { () throws(DriverError) -> (File, Int64)? in
      do throws(SystemFailure) {
        let opened = try File(file.path, O_RDONLY)
        return (opened, Int64(try opened.status().st_size))
      } catch {
        if error.number == ENOENT { return nil }
        throw DriverError(error)
      }
    }
    guard let (handle, size) = opened else { return }
    counter.read(size)
    var metadata = file.metadata
    metadata.size = size
    let (since, unjudged) = (verifyingSince, unjudged)
    switch file.kind {
    case .directory: return
    case .ordinary:
      try await add(file.target, metadata, .content) {
        RelationSource(handle, limit: size, firstBlock: 0, verifyingSince: nil, unjudged: unjudged)
      }
    case .relation(let firstBlock):
      try await add(file.target, metadata, .fixed(bytes: partBytes)) {
        RelationSource(handle, limit: size, firstBlock: firstBlock, verifyingSince: since, unjudged: unjudged)
      }
    }
  }

  /// Reads what is not kept of a file, and leaves the rest where it is.
  private func copy(_ file: ClusterFile, keeping parts: Increment.Parts) async throws(DriverError) {
    guard case .relation(let firstBlock) = file.kind else { return }
    var stretches: [Range<Int64>] = []
    for (index, digest) in parts.digests.enumerated() where digest == nil {
      let begin = Int64(index) * Int64(partBytes)
      let end = min(begin + Int64(partBytes), file.metadata.size)
      if let last = stretches.indices.last, stretches[last].upperBound == begin {
        stretches[last] = stretches[last].lowerBound..<end
      } else {
        stretches.append(begin..<end)
      }
    }
    let wanted = stretches
    var source: OpenSource?
    if !wanted.isEmpty {
      let path = file.path
      let opened = try await pool.run { () throws(DriverError) -> File? in
        do throws(SystemFailure) { return try File(path, O_RDONLY) } catch {
          if error.number == ENOENT { return nil }
          throw DriverError(error)
        }
      }
      // Gone since the files were listed: the log says that it went.
      guard let opened else { return }
      counter.read(wanted.reduce(0) { $0 + Int64($1.count) })
      let (since, unjudged) = (verifyingSince, unjudged)
      source = {
        RelationSource(opened, wanted, isSparse: true, firstBlock, verifyingSince: since, unjudged: unjudged)
      }
    }
    do throws(AnyFailure) {
      counter.add(
        try await sink.add(
          file.target, file.metadata, partBytes: partBytes, parts: parts.digests, content: source
        ).size)
    } catch { throw sinkError(error) }
  }

  /// Adds a small file that was made here.
  func add(_ path: TreePath, like metadata: FileMetadata, bytes: [UInt8]) async throws(DriverError) {
    var metadata = metadata
    metadata.kind = .regular
    metadata.permissions &= 0o666
    metadata.size = Int64(bytes.count)
    try await add(path, metadata, .content) { MemorySource(bytes) }
  }

  func add(
    _ path: TreePath, _ metadata: FileMetadata, _ cutting: Cutting, _ content: OpenSource?
  ) async throws(DriverError) {
    do throws(AnyFailure) {
      counter.add(try await sink.add(path, metadata, cutting: cutting, content: content).size)
    } catch { throw sinkError(error) }
  }

  /// What the content threw comes back wrapped.
  private func sinkError(_ error: AnyFailure) -> DriverError {
    if let inner = error.underlying as? DriverError { return inner }
    if error.isCancellation { return .cancelled }
    if let inner = error.underlying as? AnyFailure, let driver = inner.underlying as? DriverError { return driver }
    return .sink(error)
  }
}

/// Bytes so far, told on as they come.
final class ByteCounter: Sendable {
  private let total = Mutex<Int64>(0)
  private let fromDisk = Mutex<Int64>(0)
  private let progress: @Sendable (Int64) -> Void

  init(_ progress: @escaping @Sendable (Int64) -> Void) { self.progress = progress }

  func add(_ bytes: Int64) {
    let now = total.withLock { total in
      total += bytes
      return total
    }
    progress(now)
  }

  var value: Int64 { total.withLock { $0 } }

  func read(_ bytes: Int64) { fromDisk.withLock { $0 += bytes } }

  /// What was read from the store, which is less than what the copy has if parts of it were kept.
  var readBytes: Int64 { fromDisk.withLock { $0 } }
}
