import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// What a later copy must know of one to lean on it.
struct CopyOrigin: Equatable, Sendable {
  /// A checkpoint of InnoDB's from before the first page was read: what had changed by then was on disk.
  var checkpoint: UInt64
  /// Tells these files from others that call themselves the same: a digest of the head of InnoDB's log, and of when and as which
  /// files it and the system tablespace were made. A restart leaves them; a restore makes them anew.
  var files: String
  /// Of the binary log before where the copy stands in it, as a digest: a server that was set back has another there.
  var trail: Trail

  struct Trail: Equatable, Sendable {
    var position: BinlogPosition
    var digest: String
  }

  /// Blocks.
  static func files(in directory: String) throws(SystemFailure) -> String {
    var bytes = try File(directory + "/ib_logfile0", O_RDONLY).read(at: 0, count: headBytes)
    for name in ["ib_logfile0", "ibdata1"] where Files.exists("\(directory)/\(name)") {
      let file = try File("\(directory)/\(name)", O_RDONLY)
      bytes += Array("\(try file.status().st_ino) \(try file.birthNanoseconds()) ".utf8)
    }
    return Digest.of(bytes).hex
  }

  /// What InnoDB writes when it makes its log, and never again: format, where the log begins, who made it, keys.
  private static let headBytes = 512
}

extension BinaryLog {
  private static let trailBytes: Int64 = 4096

  /// Blocks.
  func trail(before position: BinlogPosition) throws(DriverError) -> CopyOrigin.Trail {
    let path = "\(directory)/\(position.file)"
    do throws(SystemFailure) {
      let file = try File(path, O_RDONLY)
      let from = max(0, position.offset - Self.trailBytes)
      // When the file was begun is in its first event.
      var bytes = try file.read(at: 0, count: 21)
      var tail = try file.read(at: from, count: Int(position.offset - from))
      guard bytes.count == 21, tail.count == position.offset - from else {
        throw SystemFailure("read", path: path, number: ENOENT)
      }
      // "In use": gone when the server goes on in another file.
      if from <= 21, tail.count > 21 { tail[21 - Int(from)] &= ~1 }
      bytes += tail
      return CopyOrigin.Trail(position: position, digest: Digest.of(bytes).hex)
    } catch {
      if error.number == ENOENT { throw .logGap("\(path) does not reach to \(position.offset), or was removed") }
      throw DriverError(error)
    }
  }
}

extension CopyOrigin {
  /// The strings of a snapshot's facts.
  var encoded: [String: String] {
    [
      "checkpoint": String(checkpoint), "files": files, "trail": trail.position.description,
      "trailDigest": trail.digest,
    ]
  }

  /// - Returns: `nil` for a copy that none can lean on.
  init?(_ facts: [String: String]) {
    guard let checkpoint = facts["checkpoint"].flatMap({ UInt64($0) }), let files = facts["files"],
      let position = facts["trail"].flatMap({ BinlogPosition($0) }), let digest = facts["trailDigest"]
    else { return nil }
    self.init(checkpoint: checkpoint, files: files, trail: Trail(position: position, digest: digest))
  }
}
