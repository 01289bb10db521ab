import Core
import DriverKit
import Glibc
import IO

/// Writes a stream's messages as a server lays them out, so that it brings them back under their numbers and times. Blocks.
///
/// Source: nats-server 2.9, `filestore.go`: `msgs/<n>.blk` is records of: length (4, the highest bit for headers), sequence
/// (8), time (8, nanoseconds), the subject's length (2), subject, headers' length (4, if there are any), headers, payload, and
/// a HighwayHash-64 (8) of it all but the lengths, under SHA-256 of `<stream>-<n>`. All numbers are little-endian. Without
/// index files the server reads the blocks through. A number that is missing within a block has an empty record, whose
/// sequence has its highest bit set: that is what the server leaves of a message that it erases.
struct MessageBlocks {
  private let directory: String
  private let stream: String
  private var number: Int64 = 0
  private var file: File?
  private var key: [UInt8] = []
  private var buffer: [UInt8] = []
  private var size = 0
  private var last: Int64 = 0

  static let blockBytes = 4 << 20
  /// With more numbers missing the next block begins.
  static let longestHole: Int64 = 1024

  init(_ directory: String, of stream: String) throws(SystemFailure) {
    (self.directory, self.stream) = (directory, stream)
    try Files.createDirectory(directory, mode: 0o750)
  }

  mutating func append(_ message: StoredMessage) throws(SystemFailure) {
    if file == nil || size >= Self.blockBytes || message.sequence - last > Self.longestHole { try turn() }
    let before = buffer.count
    // Before a block's first message nothing is missing.
    if size > 0 { for sequence in stride(from: last + 1, to: message.sequence, by: 1) { erased(sequence) } }
    Self.append(message, to: &buffer, key: key)
    size += buffer.count - before
    last = message.sequence
    if buffer.count >= 1 << 20 { try flush() }
  }

  private mutating func erased(_ sequence: Int64) {
    var signed: [UInt8] = []
    signed.add(UInt64(sequence) | 1 << 63)
    signed.add(UInt64(0))
    buffer.add(UInt32(30))
    buffer += signed
    buffer.add(UInt16(0))
    buffer += HighwayHash.hash64(signed, key: key)
  }

  /// Nothing is in the file before this.
  mutating func finish() throws(SystemFailure) {
    try flush()
    file = nil
  }

  private mutating func turn() throws(SystemFailure) {
    try finish()
    number += 1
    key = Digest.of("\(stream)-\(number)").bytes
    size = 0
    file = try File("\(directory)/\(number).blk", O_WRONLY | O_CREAT | O_TRUNC)
  }

  private mutating func flush() throws(SystemFailure) {
    guard !buffer.isEmpty, let file else { return }
    try buffer.withRawBytes { (raw) throws(SystemFailure) in try file.write(raw) }
    buffer.removeAll(keepingCapacity: true)
  }

  static func append(_ message: StoredMessage, to bytes: inout [UInt8], key: [UInt8]) {
    let subject = Array(message.subject.utf8)
    let (hasHeaders, headers) = (!message.headers.isEmpty, message.headers)
    let length = 22 + subject.count + (hasHeaders ? 4 + headers.count : 0) + message.payload.count + 8
    var signed: [UInt8] = []
    signed.reserveCapacity(length)
    signed.add(UInt64(message.sequence))
    signed.add(UInt64(bitPattern: message.time.nanoseconds))
    bytes.add(UInt32(length) | (hasHeaders ? 1 << 31 : 0))
    bytes += signed
    bytes.add(UInt16(subject.count))
    bytes += subject
    if hasHeaders {
      bytes.add(UInt32(headers.count))
      bytes += headers
    }
    bytes += message.payload
    signed += subject
    signed += headers
    signed += message.payload
    bytes += HighwayHash.hash64(signed, key: key)
  }
}

extension [UInt8] {
  fileprivate mutating func add<T: FixedWidthInteger>(_ value: T) {
    Swift.withUnsafeBytes(of: value.littleEndian) { append(contentsOf: $0) }
  }
}
