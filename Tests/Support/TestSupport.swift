import Core
import IO

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

/// A TCP port on loopback that was free a moment ago.
package func freePort() throws -> UInt16 {
  let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
  guard descriptor >= 0 else { throw SystemFailure("socket") }
  defer { close(descriptor) }
  var address = sockaddr_in()
  address.sin_family = sa_family_t(AF_INET)
  address.sin_addr.s_addr = inet_addr("127.0.0.1")
  var length = socklen_t(MemoryLayout<sockaddr_in>.size)
  let bound = withUnsafeMutablePointer(to: &address) { pointer in
    pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw in
      bind(descriptor, raw, length) == 0 && getsockname(descriptor, raw, &length) == 0
    }
  }
  guard bound else { throw SystemFailure("bind") }
  return UInt16(bigEndian: address.sin_port)
}
