import Foundation
import IO
import TestSupport

#if canImport(Glibc)
  import Glibc
#endif

/// Answers every request on a loopback port with the same response, until it is let go.
final class HTTPStub: Sendable {
  let port: UInt16
  private let listener: File

  init(status: Int, body: String) throws {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
    guard descriptor >= 0 else { throw SystemFailure("socket") }
    listener = File(adopting: descriptor, path: "stub")
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = inet_addr("127.0.0.1")
    var length = socklen_t(MemoryLayout<sockaddr_in>.size)
    let isListening = withUnsafeMutablePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
        bind(descriptor, raw, length) == 0 && listen(descriptor, 16) == 0 && getsockname(descriptor, raw, &length) == 0
      }
    }
    guard isListening else { throw SystemFailure("listen") }
    port = UInt16(bigEndian: address.sin_port)
    let response = Array(
      "HTTP/1.1 \(status) X\r\ncontent-length: \(body.utf8.count)\r\nconnection: close\r\n\r\n\(body)".utf8)
    let thread = Thread {
      while true {
        let client = accept(descriptor, nil, nil)
        guard client >= 0 else { return }
        var request = [UInt8](repeating: 0, count: 4096)
        if recv(client, &request, request.count, 0) > 0 {
          _ = response.withUnsafeBytes { send(client, $0.baseAddress, $0.count, Int32(MSG_NOSIGNAL)) }
        }
        close(client)
      }
    }
    thread.start()
  }

  deinit { shutdown(listener.descriptor, Int32(SHUT_RDWR)) }
}
