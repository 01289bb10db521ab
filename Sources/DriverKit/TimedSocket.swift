import Core
import Glibc

/// What a driver's own kind of failure must be able to say of a socket.
package protocol SocketFailure: Error {
  /// The peer said nothing for this long.
  static func silent(_ limit: Duration) -> Self
  /// The connection can't be made, or ended.
  static func broken(_ why: String) -> Self
  static var cancelled: Self { get }
}

/// A connected stream socket, TCP or Unix. Every call blocks; one reader and one writer at a time.
///
/// For protocols whose libraries can't be interrupted, or write without `MSG_NOSIGNAL`: they format and parse, and this moves
/// the bytes.
package final class TimedSocket<Problem: SocketFailure>: Sendable {
  package let descriptor: Int32
  package let peer: String

  private init(descriptor: Int32, peer: String) { (self.descriptor, self.peer) = (descriptor, peer) }

  deinit { close(descriptor) }

  /// - Parameter host: A name, an address, or the absolute path of a Unix socket.
  package static func connect(
    host: String, port: UInt16, patience: Duration, interruption: Interruption? = nil
  ) throws(Problem) -> TimedSocket {
    if host.hasPrefix("/") { return try connect(path: host, patience: patience, interruption: interruption) }
    var hints = addrinfo()
    hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
    hints.ai_flags = AI_ADDRCONFIG
    var list: UnsafeMutablePointer<addrinfo>?
    let status = getaddrinfo(host, String(port), &hints, &list)
    guard status == 0, let first = list else { throw Problem.broken(String(cString: gai_strerror(status))) }
    defer { freeaddrinfo(first) }
    var failure = Problem.broken("no address")
    var next: UnsafeMutablePointer<addrinfo>? = first
    while let candidate = next {
      let descriptor = socket(
        candidate.pointee.ai_family,
        candidate.pointee.ai_socktype | Int32(SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue),
        candidate.pointee.ai_protocol)
      if descriptor >= 0 {
        let result = TimedSocket(descriptor: descriptor, peer: "\(host):\(port)")
        do throws(Problem) {
          try result.connect(candidate.pointee.ai_addr, candidate.pointee.ai_addrlen, patience, interruption)
          var one: Int32 = 1
          setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &one, socklen_t(MemoryLayout<Int32>.size))
          return result
        } catch { failure = error }
      }
      next = candidate.pointee.ai_next
    }
    throw failure
  }

  private static func connect(
    path: String, patience: Duration, interruption: Interruption?
  ) throws(Problem) -> TimedSocket {
    var address = sockaddr_un()
    address.sun_family = sa_family_t(AF_UNIX)
    let bytes = Array(path.utf8)
    guard bytes.count < MemoryLayout.size(ofValue: address.sun_path) else {
      throw Problem.broken("the socket's path is too long")
    }
    withUnsafeMutableBytes(of: &address.sun_path) { $0.copyBytes(from: bytes) }
    let descriptor = socket(AF_UNIX, Int32(SOCK_STREAM.rawValue | SOCK_CLOEXEC.rawValue | SOCK_NONBLOCK.rawValue), 0)
    guard descriptor >= 0 else { throw Problem.broken(text(errno)) }
    let result = TimedSocket(descriptor: descriptor, peer: path)
    let outcome = withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) { raw -> Problem? in
        do throws(Problem) {
          try result.connect(raw, socklen_t(MemoryLayout<sockaddr_un>.size), patience, interruption)
          return nil
        } catch { return error }
      }
    }
    if let outcome { throw outcome }
    return result
  }

  private func connect(
    _ address: UnsafePointer<sockaddr>, _ length: socklen_t, _ patience: Duration, _ interruption: Interruption?
  ) throws(Problem) {
    if Glibc.connect(descriptor, address, length) == 0 { return }
    guard errno == EINPROGRESS || errno == EINTR else { throw Problem.broken(text(errno)) }
    try wait(for: Int16(POLLOUT), patience, interruption)
    var status: Int32 = 0
    var size = socklen_t(MemoryLayout<Int32>.size)
    getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &status, &size)
    guard status == 0 else { throw Problem.broken(text(status)) }
  }

  /// - Returns: How many bytes came; 0 when the peer has closed.
  package func receive(
    into buffer: UnsafeMutableRawBufferPointer, patience: Duration, interruption: Interruption? = nil
  ) throws(Problem) -> Int {
    while true {
      let count = recv(descriptor, buffer.baseAddress, buffer.count, 0)
      if count >= 0 { return count }
      switch errno {
      case EINTR: continue
      case EAGAIN: try wait(for: Int16(POLLIN), patience, interruption)
      default: throw Problem.broken(text(errno))
      }
    }
  }

  package func send(_ bytes: [UInt8], patience: Duration, interruption: Interruption? = nil) throws(Problem) {
    var done = 0
    while done < bytes.count {
      let count = bytes.withUnsafeBytes {
        Glibc.send(descriptor, $0.baseAddress! + done, $0.count - done, Int32(MSG_NOSIGNAL))
      }
      if count >= 0 {
        done += count
        continue
      }
      switch errno {
      case EINTR: continue
      case EAGAIN: try wait(for: Int16(POLLOUT), patience, interruption)
      default: throw Problem.broken(text(errno))
      }
    }
  }

  /// Ends both directions; whoever waits on this socket is woken and finds it closed.
  package func shutDown() { shutdown(descriptor, Int32(SHUT_RDWR)) }

  /// Waits in short slices, so that an interruption is noticed, and counts slices, so that no clock is needed.
  private func wait(for events: Int16, _ patience: Duration, _ interruption: Interruption?) throws(Problem) {
    let limit = max(1, patience.wholeNanoseconds / 1_000_000)
    var waited: Int64 = 0
    while true {
      if interruption?.isSet == true { throw Problem.cancelled }
      let slice = min(50, limit - waited)
      var entry = pollfd(fd: descriptor, events: events, revents: 0)
      let ready = poll(&entry, 1, Int32(slice))
      if ready > 0 { return }
      if ready < 0 {
        guard errno == EINTR else { throw Problem.broken(text(errno)) }
        continue
      }
      waited += slice
      if waited >= limit { throw Problem.silent(patience) }
    }
  }
}

private func text(_ number: Int32) -> String { String(cString: strerror(number)).lowercased() }
