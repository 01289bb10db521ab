import Core
import DriverKit
import IO

/// The link of a replica to its master: handshake, snapshot, and then the command stream.
///
/// Source: Redis, `replication.c` (`syncCommand`, `replicationSetupSlaveForFullResync`) and the page "Redis
/// replication". Every call blocks.
enum ReplicationLink {
  /// Where a full synchronisation begins.
  struct Start: Sendable, Equatable {
    var replicationID: String
    /// The master's offset at the snapshot; the byte after it is the first of the stream.
    var offset: Int64
    var length: SnapshotLength
  }

  enum SnapshotLength: Sendable, Equatable {
    /// From a file: the length is told first, and the stream follows at once.
    case known(Int64)
    /// Without a file: 40 random characters end it, and the stream follows the first acknowledgement.
    case endedBy([UInt8])
  }

  /// How long a master may take to fork and write its snapshot before the first byte comes; it sends newlines
  /// meanwhile.
  static let patience = Duration.seconds(60)

  /// What a server says to whoever wants its stream.
  enum Answer: Sendable, Equatable {
    /// The stream goes on from where it was asked for; the id is another one after a failover.
    case goesOn(replicationID: String)
    case full(Start)
  }

  /// Asks for a full synchronisation on a connection that is authenticated and idle.
  static func begin(_ connection: Connection) throws(WireError) -> Start {
    _ = try connection.call("PING")
    _ = try connection.call("REPLCONF", "capa", "eof", "capa", "psync2")
    guard case .full(let start) = try ask(connection, for: "?", after: -2) else {
      throw .garbled("the answer to PSYNC is not a full synchronisation")
    }
    return start
  }

  /// Asks for the stream after `offset`, as a replica that shows itself by a name and a number in place of its address.
  static func follow(
    _ connection: Connection, name: String, number: UInt16, _ replicationID: String, after offset: Int64
  ) throws(WireError) -> Answer {
    _ = try connection.call("PING")
    _ = try connection.call("REPLCONF", "ip-address", name)
    _ = try connection.call("REPLCONF", "listening-port", String(number))
    _ = try connection.call("REPLCONF", "capa", "eof", "capa", "psync2")
    return try ask(connection, for: replicationID, after: offset)
  }

  private static func ask(
    _ connection: Connection, for replicationID: String, after offset: Int64
  ) throws(WireError) -> Answer {
    try connection.socket.send(
      Connection.format("PSYNC", replicationID, String(offset + 1)), patience: patience,
      interruption: connection.interruption)
    let reply = try line(connection)
    if reply.hasPrefix("-") { throw .refused(String(reply.dropFirst())) }
    let words = reply.split(separator: " ")
    if words.first == "+CONTINUE", words.count <= 2 {
      let id = words.count == 2 ? String(words[1]) : replicationID
      guard StreamFile.isID(id) else { throw .garbled("the stream goes on under an id that is none") }
      return .goesOn(replicationID: id)
    }
    guard words.count == 3, words[0] == "+FULLRESYNC", let offset = Int64(words[2]), offset >= 0,
      StreamFile.isID(words[1])
    else { throw .garbled("the answer to PSYNC is not a full synchronisation") }
    let header = try line(connection)
    if header.hasPrefix("-") { throw .refused(String(header.dropFirst())) }
    let length: SnapshotLength
    if header.hasPrefix("$EOF:"), header.utf8.count == 45 {
      length = .endedBy(Array(header.utf8.dropFirst(5)))
    } else if header.hasPrefix("$"), let bytes = Int64(header.dropFirst()), bytes >= 0 {
      length = .known(bytes)
    } else {
      throw .garbled("the snapshot has no length")
    }
    return .full(Start(replicationID: String(words[1]), offset: offset, length: length))
  }

  /// The next line that isn't empty, without its end; read byte by byte, so that nothing after it is taken.
  private static func line(_ connection: Connection) throws(WireError) -> String {
    var bytes: [UInt8] = []
    var byte: [UInt8] = [0]
    while true {
      let count = try byte.withMutableRawBytes { (raw) throws(WireError) -> Int in
        try connection.socket.receive(into: raw, patience: patience, interruption: connection.interruption)
      }
      guard count == 1 else { throw .broken("the server closed the connection") }
      if byte[0] == 10 {
        if bytes.last == 13 { bytes.removeLast() }
        if !bytes.isEmpty { return String(decoding: bytes, as: UTF8.self) }
        continue
      }
      guard bytes.count < 512 else { throw .garbled("a line of more than 512 bytes") }
      bytes.append(byte[0])
    }
  }
}

/// The snapshot as it comes over the link, kept a second time in a file if there is one.
final class SnapshotSource: ByteSource {
  private let connection: Connection
  private let length: ReplicationLink.SnapshotLength
  private let copy: File?
  private var remaining: Int64
  /// Received and not yet given out; the last 40 bytes may be the end mark.
  private var buffer: [UInt8] = []
  private var start = 0
  private var isWhole = false
  private(set) var bytes: Int64 = 0
  private var running = RunningDigest()
  private let finished: @Sendable (_ bytes: Int64, _ digest: Digest) -> Void

  /// - Parameter finished: Told once, when the last byte has been given out.
  init(
    _ connection: Connection, _ length: ReplicationLink.SnapshotLength, copy: File?,
    finished: @escaping @Sendable (_ bytes: Int64, _ digest: Digest) -> Void
  ) {
    (self.connection, self.length, self.copy, self.finished) = (connection, length, copy, finished)
    if case .known(let bytes) = length { remaining = bytes } else { remaining = 0 }
  }

  func read(into target: UnsafeMutableRawBufferPointer) throws -> Int {
    guard !target.isEmpty else { return 0 }
    let count: Int
    switch length {
    case .known: count = try readCounted(into: target)
    case .endedBy(let mark): count = try readMarked(mark, into: target)
    }
    if count == 0 {
      if !isWhole {
        isWhole = true
        finished(bytes, running.finish())
      }
      return 0
    }
    let part = UnsafeRawBufferPointer(rebasing: UnsafeRawBufferPointer(target)[..<count])
    running.update(part)
    try copy?.write(part)
    bytes += Int64(count)
    return count
  }

  private func readCounted(into target: UnsafeMutableRawBufferPointer) throws -> Int {
    guard remaining > 0 else { return 0 }
    let wanted = Int(min(Int64(target.count), remaining))
    let count = try receive(into: UnsafeMutableRawBufferPointer(rebasing: target[..<wanted]))
    remaining -= Int64(count)
    return count
  }

  private func readMarked(_ mark: [UInt8], into target: UnsafeMutableRawBufferPointer) throws -> Int {
    // The mark ends what the master sends until it is answered, so it can only be at the end of what has come.
    while !isEnded, buffer.count - start <= mark.count {
      buffer.removeFirst(start)
      start = 0
      let old = buffer.count
      buffer.append(contentsOf: repeatElement(0, count: 65_536))
      let count = try buffer.withUnsafeMutableBytes {
        try receive(into: UnsafeMutableRawBufferPointer(rebasing: $0[old...]))
      }
      buffer.removeLast(65_536 - count)
      if buffer.count >= mark.count, buffer.suffix(mark.count).elementsEqual(mark) {
        isEnded = true
        buffer.removeLast(mark.count)
      }
    }
    let given = min(target.count, buffer.count - start - (isEnded ? 0 : mark.count))
    guard given > 0 else { return 0 }
    buffer.withUnsafeBytes { target.copyMemory(from: UnsafeRawBufferPointer(rebasing: $0[start..<start + given])) }
    start += given
    return given
  }

  private var isEnded = false

  private func receive(into target: UnsafeMutableRawBufferPointer) throws -> Int {
    do throws(WireError) {
      let count = try connection.socket.receive(
        into: target, patience: ReplicationLink.patience, interruption: connection.interruption)
      guard count > 0 else { throw .broken("closed") }
      return count
    } catch {
      if error == .cancelled { throw DriverError.cancelled }
      throw DriverError.logGap("the snapshot from \(connection.socket.peer) broke off after \(bytes) bytes")
    }
  }
}
