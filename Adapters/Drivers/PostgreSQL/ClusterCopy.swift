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
  /// A multiple of the page size: a changed page changes one blob.
  static let relationCut = Cutting.fixed(bytes: 128 << 10)

  var sink: any TreeSink
  var pool: BlockingPool
  /// `nil` if the cluster has no page checksums.
  var verifyingSince: LogSequenceNumber?
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
      try await add(file.target, metadata, Self.relationCut) {
        RelationSource(handle, limit: size, firstBlock: firstBlock, verifyingSince: since, unjudged: unjudged)
      }
    }
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
    } catch {
      // What the content threw comes back wrapped.
      if let inner = error.underlying as? DriverError { throw inner }
      if error.isCancellation { throw .cancelled }
      if let inner = error.underlying as? AnyFailure, let driver = inner.underlying as? DriverError { throw driver }
      throw .sink(error)
    }
  }
}

/// Bytes so far, told on as they come.
final class ByteCounter: Sendable {
  private let total = Mutex<Int64>(0)
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
}
