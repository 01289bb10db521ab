import CMariaDB
import Core
import DriverKit
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// A connection over which a server sends its binary log, as it does to a replica.
///
/// The client library's own calls for it acknowledge what has only been received, so its packets are read here.
/// Source: MariaDB, "COM_BINLOG_DUMP" and "Semi-synchronous replication".
extension Connection {
  /// Says what we understand, and how often we want to hear that nothing happens.
  func introduce(isSemiSynchronous: Bool) async throws(StatementFailure) {
    for statement in [
      "SET @master_heartbeat_period = 1000000000", "SET @master_binlog_checksum = 'CRC32'",
      // Events as they are in the file, GTIDs too.
      "SET @mariadb_slave_capability = 4",
    ] + (isSemiSynchronous ? ["SET @rpl_semi_sync_slave = 1"] : []) { try await run(statement) }
  }

  /// Asks for the log; from here on there is nothing else on this connection.
  ///
  /// - Parameter offset: The protocol has room for four bytes.
  func startDump(_ file: String, from offset: UInt32, as server: UInt32) async throws(StatementFailure) {
    var argument: [UInt8] = []
    withUnsafeBytes(of: offset.littleEndian) { argument += $0 }
    // With the text of statements: what is left out would be missing from the file.
    withUnsafeBytes(of: UInt16(2).littleEndian) { argument += $0 }
    withUnsafeBytes(of: server.littleEndian) { argument += $0 }
    try await command(COM_BINLOG_DUMP, argument + Array(file.utf8))
  }

  /// Tells a server that waits for it how far its log is durable here.
  func acknowledge(_ position: BinlogPosition) async throws(StatementFailure) {
    var argument: [UInt8] = []
    withUnsafeBytes(of: UInt64(position.offset).littleEndian) { argument += $0 }
    // A packet that begins with 0xef; the library takes it for a command.
    try await command(enum_server_command(rawValue: 0xef), argument + Array(position.file.utf8))
  }

  private func command(_ code: enum_server_command, _ argument: [UInt8]) async throws(StatementFailure) {
    try await withLibrary { (pointer) throws(StatementFailure) in
      let sent = argument.withUnsafeBytes {
        pointer.pointee.methods.pointee.db_command(
          pointer, code, $0.bindMemory(to: CChar.self).baseAddress, $0.count, 1, nil)
      }
      if sent != 0 { throw failure(of: pointer) ?? StatementFailure(code: 2000, message: "unknown error") }
    }
  }

  /// What has come of a log: events, each as a packet without its first byte, and whether that was all.
  struct Received: Sendable {
    var packets: [[UInt8]] = []
    var ending: StatementFailure?
  }

  /// Events that have come; none if nothing comes in time.
  ///
  /// - Parameter limitBytes: Where it ends to take more; one event may be longer.
  func receive(limitBytes: Int, wait: Duration) async throws(StatementFailure) -> Received {
    let milliseconds = Int32(clamping: wait.wholeNanoseconds / 1_000_000)
    return try await withLibrary { (pointer) throws(StatementFailure) in
      var received = Received()
      var bytes = 0
      while bytes < limitBytes {
        if Self.cached(pointer) == 0 {
          var descriptor = pollfd(fd: mysql_get_socket(pointer), events: Int16(POLLIN), revents: 0)
          if poll(&descriptor, 1, received.packets.isEmpty ? milliseconds : 0) <= 0 { break }
        }
        let length = mysql_net_read_packet(pointer)
        // An error has no length.
        guard length > 0, length < UInt32.max, let start = pointer.pointee.net.read_pos, start.pointee == 0 else {
          received.ending =
            failure(of: pointer) ?? StatementFailure(code: 2013, message: "the server ended the stream")
          break
        }
        received.packets.append(Array(UnsafeRawBufferPointer(start: start + 1, count: Int(length) - 1)))
        bytes += Int(length)
      }
      return received
    }
  }

  /// What the library has read and not given out yet: the socket doesn't tell of it.
  private static func cached(_ pointer: UnsafeMutablePointer<MYSQL>) -> Int {
    guard let pvio = pointer.pointee.net.pvio?.pointee, let cache = pvio.cache, let place = pvio.cache_pos else {
      return 0
    }
    return pvio.cache_size - (place - cache)
  }
}
