import Core
import DriverKit
import Glibc
import IO

/// A file to which somebody appends S3 event notifications, one JSON document a line, as AWS, MinIO and Ceph write them.
///
/// Read from where the last capture stopped. It may be renamed or begun anew: then nothing is known of what was missed, and
/// the bucket is listed.
struct EventFile: Sendable {
  /// How far the file was read; goes with the capture.
  struct Place: Sendable, Equatable {
    var device: UInt64
    var inode: UInt64
    var offset: Int64

    var text: String { "\(device):\(inode):\(offset)" }

    init(device: UInt64, inode: UInt64, offset: Int64) {
      (self.device, self.inode, self.offset) = (device, inode, offset)
    }

    init?(_ text: String) {
      let parts = text.split(separator: ":", omittingEmptySubsequences: false)
      guard parts.count == 3, let device = UInt64(parts[0]), let inode = UInt64(parts[1]), let offset = Int64(parts[2]),
        offset >= 0
      else { return nil }
      (self.device, self.inode, self.offset) = (device, inode, offset)
    }
  }

  /// More than this is no shorter than a listing.
  static let limitBytes: Int64 = 1 << 30

  let path: String

  /// Where the file ends now, in whole lines. Blocks.
  func end() throws(DriverError) -> Place {
    let (file, status) = try open()
    let size = Int64(status.st_size)
    // A line that is being written is read next time.
    var end = size
    do throws(SystemFailure) {
      while end > 0 {
        let from = max(0, end - 65_536)
        let bytes = try file.read(at: from, count: Int(end - from))
        if let last = bytes.lastIndex(of: 10) {
          end = from + Int64(last) + 1
          break
        }
        end = from
      }
    } catch { throw DriverError(error) }
    return Place(device: UInt64(status.st_dev), inode: UInt64(status.st_ino), offset: end)
  }

  /// The whole keys named between two places. Blocks.
  ///
  /// - Returns: `nil` if the file isn't the one that was read before, or is shorter, or has more than is worth reading.
  func keys(from: Place, to: Place, bucket: String) throws(DriverError) -> Set<ObjectKey>? {
    guard from.device == to.device, from.inode == to.inode, from.offset <= to.offset,
      to.offset - from.offset <= Self.limitBytes
    else { return nil }
    let (file, status) = try open()
    guard UInt64(status.st_ino) == to.inode, Int64(status.st_size) >= to.offset else { return nil }
    var keys: Set<ObjectKey> = []
    var (offset, rest) = (from.offset, [UInt8]())
    while offset < to.offset {
      let bytes: [UInt8]
      do throws(SystemFailure) { bytes = try file.read(at: offset, count: Int(min(1 << 20, to.offset - offset))) } catch
      {
        throw DriverError(error)
      }
      guard !bytes.isEmpty else { return nil }
      offset += Int64(bytes.count)
      rest += bytes
      while let end = rest.firstIndex(of: 10) {
        keys.formUnion(try Self.keys(in: Array(rest[..<end]), bucket: bucket, path: path))
        rest.removeSubrange(...end)
      }
      guard rest.count <= 16 << 20 else { throw .corrupt("\(path) has a line of more than 16 MiB") }
    }
    return keys
  }

  /// The keys of one line: a document with `Records`, or a record alone; others of the bucket's are no business of ours.
  ///
  /// Source: Amazon, "Event message structure": keys are percent-encoded, with `+` for a blank.
  static func keys(in line: [UInt8], bucket: String, path: String) throws(DriverError) -> Set<ObjectKey> {
    guard line.contains(where: { $0 > 32 }) else { return [] }
    guard let value = try? CanonicalJSON.decode(JSONValue.self, from: line), value.object != nil else {
      throw .corrupt("\(path) has a line that is no event: \(String(decoding: line.prefix(100), as: UTF8.self))")
    }
    var result: Set<ObjectKey> = []
    for record in value["Records"]?.array ?? [value] {
      // What S3 sends when notifications are switched on names no object.
      guard let object = record["s3"]?["object"]?["key"]?.string else { continue }
      if let name = record["s3"]?["bucket"]?["name"]?.string, name != bucket { continue }
      guard let key = ObjectKey(untrusted: Array(try BucketClient.decoded(object, path).utf8)) else {
        throw .corrupt("\(path) names what is no object: \(object.prefix(100))")
      }
      result.insert(key)
    }
    return result
  }

  private func open() throws(DriverError) -> (File, stat) {
    do throws(SystemFailure) {
      let file = try File(path, O_RDONLY | O_NONBLOCK)
      let status = try file.status()
      guard status.st_mode & S_IFMT == S_IFREG else { throw SystemFailure("open", path: path, number: EINVAL) }
      return (file, status)
    } catch { throw DriverError(error) }
  }
}
