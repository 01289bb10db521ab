import Core
import DriverKit
import Foundation
import Glibc
import IO

/// Reads a master's command stream into a file on a thread of its own, and keeps the master's patience.
///
/// The thread is the session's: started once, ended and waited for by ``stop()``. It sends `REPLCONF ACK 0` each
/// second: the master then keeps the link, and no `WAIT` of anyone is ever satisfied by a backup.
final class StreamReader: @unchecked Sendable {
  private let connection: Connection
  private let spill: File
  private let condition = NSCondition()
  // Guarded by `condition`.
  private var received: Int64 = 0
  private var failure: DriverError?
  private var isStopping = false
  private var isRunning = false

  init(_ connection: Connection, spill: File) { (self.connection, self.spill) = (connection, spill) }

  func start() {
    condition.withLock { isRunning = true }
    let thread = Thread { [self] in
      let failure = read()
      condition.withLock {
        self.failure = isStopping ? nil : failure
        isRunning = false
        condition.broadcast()
      }
    }
    thread.name = "salvor-redis"
    thread.stackSize = 1 << 20
    thread.start()
  }

  /// How many bytes of the stream are in the file, and why no more will come, if so.
  var progress: (bytes: Int64, failure: DriverError?) { condition.withLock { (received, failure) } }

  /// Ends the link, and waits until the thread is gone. Safe to call twice. Blocks.
  func stop() {
    condition.withLock { isStopping = true }
    connection.socket.shutDown()
    condition.withLock { while isRunning { condition.wait() } }
  }

  private func read() -> DriverError? {
    var buffer = [UInt8](repeating: 0, count: 262_144)
    // A master that sent its snapshot without a file starts the stream at the first acknowledgement after it noticed
    // that its child is done, so the first ones come quickly.
    var quick = 30
    var idle = Duration.zero
    do throws(WireError) {
      try acknowledge()
      while !condition.withLock({ isStopping }) {
        let patience = quick > 0 ? Duration.milliseconds(50) : .seconds(1)
        let count: Int
        do throws(WireError) {
          count = try buffer.withMutableRawBytes { (raw) throws(WireError) -> Int in
            try connection.socket.receive(into: raw, patience: patience)
          }
        } catch .silent {
          quick -= 1
          idle = .zero
          try acknowledge()
          continue
        }
        guard count > 0 else { throw .broken("the master closed the link") }
        do throws(SystemFailure) {
          try buffer.withRawBytes { (raw) throws(SystemFailure) -> Void in
            try spill.write(UnsafeRawBufferPointer(rebasing: raw[..<count]))
          }
        } catch { return DriverError(error) }
        condition.withLock { received += Int64(count) }
        quick = 0
        // A busy master never lets the wait above run out.
        idle += .milliseconds(1)
        if idle >= .milliseconds(64) {
          idle = .zero
          try acknowledge()
        }
      }
      return nil
    } catch {
      return .logGap("the replication stream of \(connection.socket.peer) was cut: \(error)")
    }
  }

  private func acknowledge() throws(WireError) {
    try connection.socket.send(Connection.format("REPLCONF", "ACK", "0"), patience: .seconds(30))
  }
}
