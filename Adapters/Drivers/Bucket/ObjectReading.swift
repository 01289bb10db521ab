import Core
import DriverKit
import Glibc
import IO
import Synchronization
import Web

/// An object's content, read whole before anyone is given it, so that a mixture of two states never gets anywhere.
struct ReadObject: Sendable {
  enum Content: Sendable {
    case bytes([UInt8])
    /// In scratch space; gone when the value is.
    case file(ScratchFile)
  }

  var content: Content
  var size: Int64
  var etag: String
  /// As the answer said, in whole seconds.
  var modified: Timestamp?
  var metadata: ObjectMetadata
  var sha256: Digest

  var open: OpenSource {
    switch content {
    case .bytes(let bytes): { MemorySource(bytes) }
    case .file(let file): { try File(file.path, O_RDONLY | O_NOFOLLOW) }
    }
  }
}

/// A file that is removed when nobody has it any more.
final class ScratchFile: Sendable {
  let path: String
  init(_ path: String) { self.path = path }
  deinit { unlink(path) }
}

/// Reads objects: small ones by one answer, which is of one state; large ones in ranges, each of which must be of the same.
struct ObjectReader: Sendable {
  let client: BucketClient
  let pool: BlockingPool
  let scratch: String
  let rangeBytes: Int

  /// How often an object that changes while it is read is begun anew.
  private static let tries = 5
  /// Ranges of one object at a time.
  private static let width = 4

  enum Outcome: Sendable {
    case read(ReadObject)
    case gone
  }

  /// - Parameter name: Of a file in scratch space; nobody else's.
  func read(_ key: ObjectKey, version: String?, size: Int64, name: String) async throws(DriverError) -> Outcome {
    var size = size
    for _ in 0..<Self.tries {
      if size <= Int64(rangeBytes) {
        let response = try await client.send(
          .get, key, query: BucketClient.version(version), limitBytes: rangeBytes + 1)
        switch response.status {
        case 200:
          let bytes = response.body
          let digest = await pool.run { Digest.of(bytes) }
          return .read(
            ReadObject(
              content: .bytes(bytes), size: Int64(bytes.count), etag: BucketClient.etag(response.headers["etag"]),
              modified: ServerClock.date(response.headers["last-modified"]), metadata: ObjectMetadata(response),
              sha256: digest))
        case 404, 405: return .gone
        default: throw client.refusal(response, "\(key) was not given", needs: needs(version))
        }
      }
      guard let head = try await client.head(key, version: version) else { return .gone }
      guard let found = head.headers["content-length"].flatMap({ Int64($0) }), found >= 0 else {
        throw .engineFailed("\(client.location) doesn't say how large \(key) is", log: "")
      }
      size = found
      if size <= Int64(rangeBytes) { continue }
      if let object = try await readRanges(key, version, head, size, name) { return .read(object) }
    }
    throw .system(
      .init(
        Report(
          "DRIVER-641", "\(key) at \(client.location) was replaced every time it was read", retry: .afterBackoff
        ).remedy("take the point again when it is written less often, or switch the bucket's versioning on")))
  }

  private func needs(_ version: String?) -> String { version == nil ? "s3:GetObject" : "s3:GetObjectVersion" }

  /// - Returns: `nil` if it changed meanwhile.
  private func readRanges(
    _ key: ObjectKey, _ version: String?, _ head: WebResponse, _ size: Int64, _ name: String
  ) async throws(DriverError) -> ReadObject? {
    let path = "\(scratch)/\(name)"
    let etag = BucketClient.etag(head.headers["etag"])
    let scratchFile = ScratchFile(path)
    let file = try await onPool { () throws(SystemFailure) in try File(path, O_RDWR | O_CREAT | O_TRUNC | O_NOFOLLOW) }
    let starts = Array(stride(from: Int64(0), to: size, by: Int64.Stride(rangeBytes)))
    let hasChanged = Mutex(false)
    try await sideBySide(starts, Self.width) { start throws(DriverError) in
      guard !hasChanged.withLock({ $0 }) else { return }
      let range = Int(start)..<Int(min(size, start + Int64(rangeBytes)))
      let response = try await client.send(
        .get, key, query: BucketClient.version(version),
        headers: [("range", "bytes=\(range.lowerBound)-\(range.upperBound - 1)")], limitBytes: range.count)
      // By the answer's own tag, not by a condition: there are servers that don't know conditions, or quote them otherwise.
      guard response.status != 404, response.status != 416, response.status != 412,
        !response.isSuccess || BucketClient.etag(response.headers["etag"]) == etag
      else { return hasChanged.withLock { $0 = true } }
      switch RangeAnswer(response, asked: range) {
      case .bytes(let bytes):
        try await onPool { () throws(SystemFailure) in
          try bytes.withRawBytes { (raw) throws(SystemFailure) -> Void in
            try file.write(raw, at: Int64(range.lowerBound))
          }
        }
      case .pastEnd, .unsatisfiable: hasChanged.withLock { $0 = true }
      case .failed: throw client.refusal(response, "\(key) was not given", needs: needs(version))
      case .ignored, .otherBytes, .unnamed:
        throw .engineFailed("\(client.location) doesn't give the parts of \(key) that it is asked for", log: "")
      }
    }
    if hasChanged.withLock({ $0 }) { return nil }
    let digest = try await onPool { () throws(SystemFailure) -> Digest in
      var digest = RunningDigest()
      var offset: Int64 = 0
      while offset < size {
        let bytes = try file.read(at: offset, count: Int(min(1 << 20, size - offset)))
        guard !bytes.isEmpty else { throw SystemFailure("read", path: path, number: EIO) }
        digest.update(bytes)
        offset += Int64(bytes.count)
      }
      return digest.finish()
    }
    return ReadObject(
      content: .file(scratchFile), size: size, etag: etag, modified: ServerClock.date(head.headers["last-modified"]),
      metadata: ObjectMetadata(head), sha256: digest)
  }

  private func onPool<T: Sendable>(
    _ body: @escaping @Sendable () throws(SystemFailure) -> T
  ) async throws(DriverError) -> T {
    do throws(SystemFailure) { return try await pool.run(body) } catch { throw DriverError(error) }
  }
}
