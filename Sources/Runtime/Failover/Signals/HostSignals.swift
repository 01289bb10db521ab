import Core
import DriverKit
import Failover
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// What a host says of itself. Everything here blocks.
package enum HostSignals {
  /// Percent of the last ten seconds in which at least one task waited.
  ///
  /// Source: Linux, Documentation/accounting/psi.rst.
  package static func pressure(_ bytes: [UInt8]) -> SignalSample {
    for line in String(decoding: bytes, as: UTF8.self).split(separator: "\n") where line.hasPrefix("some ") {
      for word in line.split(separator: " ") where word.hasPrefix("avg10=") { return number(String(word.dropFirst(6))) }
    }
    return .unknown
  }

  /// As an unprivileged writer sees it, in percent.
  package static func diskUsed(_ path: String) -> SignalSample {
    var found = statvfs()
    guard statvfs(path, &found) == 0 else { return errno == EIO ? .failed : .unknown }
    let (free, total) = (
      Double(found.f_bavail), Double(found.f_blocks) - Double(found.f_bfree) + Double(found.f_bavail)
    )
    guard total > 0 else { return .unknown }
    return .value(Int64(((1 - free / total) * 100_000).rounded()))
  }

  /// Mounted read-only, or made so by the kernel after an error.
  package static func readOnly(_ path: String) -> SignalSample {
    var found = statvfs()
    guard statvfs(path, &found) == 0 else { return errno == EIO ? .failed : .unknown }
    let isReadOnly: UInt = 1  // ST_RDONLY of statvfs(3).
    return .value(found.f_flag & isReadOnly != 0 ? 1000 : 0)
  }

  package static func number(_ text: String) -> SignalSample {
    let words = text.split(whereSeparator: \.isWhitespace)
    guard words.count == 1, words[0].utf8.count <= 64, let value = Double(words[0]), value.isFinite, abs(value) < 1e15
    else { return .unknown }
    return .value(Int64((value * 1000).rounded()))
  }

  private enum Refusal: SocketFailure {
    case silent(Duration)
    case broken(String)
    case cancelled
  }

  /// - Returns: `nil` if the name means nothing here: that says nothing of whoever listens.
  package static func connects(to host: String, port: UInt16, patience: Duration) -> Bool? {
    var list: UnsafeMutablePointer<addrinfo>?
    guard getaddrinfo(host, nil, nil, &list) == 0 else { return nil }
    freeaddrinfo(list)
    do throws(Refusal) {
      _ = try TimedSocket<Refusal>.connect(host: host, port: port, patience: patience)
      return true
    } catch {
      return false
    }
  }
}
