import Core
import IO
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// A directory of a test's own, gone when the value is.
package final class TemporaryDirectory: Sendable {
  package let path: String

  package init(_ name: String = "test", in parent: String = "/tmp") throws {
    var template = Array("\(parent)/salvor-\(name)-XXXXXX".utf8CString)
    guard mkdtemp(&template) != nil else { throw SystemFailure("mkdtemp") }
    path = template.withUnsafeBufferPointer { String(cString: $0.baseAddress!) }
    // Servers that refuse root run as someone else and must be able to pass.
    chmod(path, 0o755)
  }

  deinit { try? Files.removeTree(path) }

  package func file(_ name: String) -> String { "\(path)/\(name)" }
}

private let portsGiven = Mutex<Set<UInt16>>([])

/// A TCP port on loopback that nobody has, and that no other caller in this process gets.
///
/// None of those the kernel gives out by itself: until a slow server listens, any connection of anybody could take it.
package func freePort() throws -> UInt16 {
  for _ in 0..<1000 {
    let port = UInt16(20_000 + SystemRandomness().below(12_000))
    if portsGiven.withLock({ $0.insert(port).inserted }), canListen(on: port) { return port }
  }
  throw SystemFailure("bind", path: "loopback", number: EADDRINUSE)
}

private func canListen(on port: UInt16) -> Bool {
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
  guard descriptor >= 0 else { return false }
  defer { close(descriptor) }
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_addr.s_addr = inet_addr("127.0.0.1")
  address.sin_port = port.bigEndian
  return withUnsafePointer(to: &address) { pointer in
    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
      bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
    }
  }
}
