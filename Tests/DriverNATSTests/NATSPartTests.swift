import Core
import DriverContract
import DriverKit
import Foundation
import IO
import Synchronization
import TestSupport
import Testing

@testable import DriverNATS

/// Parts of the driver by themselves.
@Suite("Parts of the NATS driver") struct NATSPartTests {
  // MARK: A server that means no good

  static let attacks: [(name: String, bytes: String)] = [
    ("a line without an end", "INFO {\"version\":\"2.9.0\"}\r\nPONG\r\nMSG " + String(repeating: "x", count: 2 << 20)),
    ("a greeting that is none", "HELLO\r\n"),
    ("a greeting without JSON", "INFO {\r\n"),
    ("a size beyond all limits", "INFO {\"version\":\"2.9.0\"}\r\nPONG\r\nMSG a 1 9223372036854775807\r\n"),
    ("a negative size", "INFO {\"version\":\"2.9.0\"}\r\nPONG\r\nMSG a 1 -1\r\n"),
    ("headers larger than the message", "INFO {\"version\":\"2.9.0\"}\r\nPONG\r\nHMSG a 1 9 3\r\nabc\r\n"),
    ("a payload that goes on", "INFO {\"version\":\"2.9.0\"}\r\nPONG\r\nMSG a 1 3\r\nabcdef\r\n"),
    ("a word nobody knows", "INFO {\"version\":\"2.9.0\"}\r\nPONG\r\nGIVE me\r\n"),
  ]

  @Test(.timeLimit(.minutes(10)), arguments: attacks.indices)
  func `what no server says ends the connection`(_ index: Int) async throws {
    let attack = Self.attacks[index]
    let listener = try Listener()
    async let served: Void = clients.run { listener.serve(Array(attack.bytes.utf8)) }
    let error = await clients.run { () -> WireError? in
      do throws(WireError) {
        let socket = try Socket.connect(host: "127.0.0.1", port: listener.port, patience: .seconds(5))
        let client = try Client(
          socket, as: .none, inbox: "_INBOX.x", patience: .seconds(5))
        _ = try client.request("a")
        return nil
      } catch { return error }
    }
    listener.close()
    await served
    guard case .garbled = error else {
      Issue.record("\(attack.name): \(String(describing: error))")
      return
    }
  }

  // MARK: Signatures

  @Test(.timeLimit(.minutes(10)))
  func `signatures are those of the server`() async throws {
    try await NATSFixture.with { fixture in
      // Names and subjects of many lengths, so that every rest of a division by 32 comes up.
      for length in 1...40 {
        let name = "S" + String(repeating: "x", count: length)
        try await fixture.api("STREAM.CREATE.\(name)", ["name": .string(name), "subjects": [.string("s.\(length)")]])
      }
      try await fixture.consumer("worker", acknowledging: 3)
      await clients.run { fixture.server.stop() }
      let streams = try StreamFiles.read(fixture.livePaths[0])
      #expect(streams.count == 41)
      #expect(streams.first { $0.name == NATSFixture.stream }?.consumers.map(\.sequence) == [3])
    }
  }

  @Test func `a consumer's state is spelled as the server's`() {
    #expect(StreamFiles.encode(count: 0, sequence: 0) == [22, 2, 0, 0, 0, 0, 0, 0])
    #expect(StreamFiles.encode(count: 300, sequence: 1) == [22, 2, 0xac, 2, 1, 0xac, 2, 1, 0, 0])
  }

  // MARK: Standing still

  @Test(.timeLimit(.minutes(10)))
  func `a process goes on when the thread that holds it ends`() async throws {
    try await NATSFixture.with { fixture in
      let pid = try #require(fixture.server.pid)
      let held = Mutex(false)
      let mayEnd = Mutex(false)
      let thread = Thread {
        // Never let go of: as when Salvor is killed.
        let standing = StandingProcess()
        try? standing.stop(pid, within: .seconds(5))
        held.withLock { $0 = true }
        while !mayEnd.withLock({ $0 }) { usleep(1000) }
      }
      thread.start()
      while !held.withLock({ $0 }) { try await SystemTime().sleep(for: .milliseconds(2)) }
      #expect(Self.states(pid) == ["t"], "every thread stands still")
      mayEnd.withLock { $0 = true }
      let limit = SystemTime().monotonicNanoseconds() + 10_000_000_000
      while Self.states(pid).contains("t"), SystemTime().monotonicNanoseconds() < limit {
        try await SystemTime().sleep(for: .milliseconds(2))
      }
      #expect(!Self.states(pid).contains("t"))
      try await fixture.write(900, payload: "goes on")
    }
  }

  /// Of each thread of a process.
  private static func states(_ pid: Int32) -> Set<String> {
    let threads = (try? Files.names(in: "/proc/\(pid)/task"))?.map(\.lossyText) ?? []
    return Set(
      threads.compactMap { thread in
        (try? Files.read("/proc/\(pid)/task/\(thread)/stat", limitBytes: 4096)).flatMap { bytes in
          String(decoding: bytes, as: UTF8.self).split(separator: ")").last?.split(separator: " ").first.map(
            String.init)
        }
      })
  }
}

/// Takes one connection and says the same whatever it hears.
private final class Listener: Sendable {
  private let descriptor: Int32
  let port: UInt16

  init() throws {
    descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let own = descriptor
    let bound = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
        bind(own, raw, length) == 0 && listen(own, 1) == 0 && getsockname(own, raw, &length) == 0
      }
    }
    guard bound else { throw SystemFailure("bind") }
    port = UInt16(bigEndian: address.sin_port)
  }

  func serve(_ bytes: [UInt8]) {
    let peer = accept(descriptor, nil, nil)
    guard peer >= 0 else { return }
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes {
        send(peer, $0.baseAddress! + done, $0.count - done, Int32(MSG_NOSIGNAL))
      }
      if count <= 0 { break }
      done += count
    }
    var buffer = [UInt8](repeating: 0, count: 4096)
    while recv(peer, &buffer, buffer.count, 0) > 0 {}
    Glibc.close(peer)
  }

  func close() {
    shutdown(descriptor, Int32(SHUT_RDWR))
    Glibc.close(descriptor)
  }
}

#if canImport(Glibc)
  import Glibc
#endif
