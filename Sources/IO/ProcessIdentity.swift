import Core

#if canImport(Glibc)
  import Glibc
#endif

/// One process, told apart from any other that gets its number later, on this machine or after a reboot.
///
/// Written `<host>/<boot id>/<pid>/<start time>`; the start time is in clock ticks since boot, field 22 of
/// `/proc/<pid>/stat`. Source: proc(5).
package struct ProcessIdentity: Hashable, Sendable, CustomStringConvertible {
  package let host: String
  package let boot: String
  package let pid: Int32
  package let startTicks: UInt64

  package static let current: ProcessIdentity = {
    let pid = getpid()
    return ProcessIdentity(pid: pid) ?? ProcessIdentity(host: hostName, boot: bootID, pid: pid, startTicks: 0)
  }()

  /// - Returns: `nil` if no such process runs now.
  package init?(pid: Int32) {
    guard let stat = ProcessStatus(pid: pid), stat.isAlive else { return nil }
    self.init(host: Self.hostName, boot: Self.bootID, pid: pid, startTicks: stat.startTicks)
  }

  package init?(_ text: some StringProtocol) {
    let parts = text.split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count == 4, let pid = Int32(parts[2]), pid > 0, let ticks = UInt64(parts[3]) else { return nil }
    self.init(host: String(parts[0]), boot: String(parts[1]), pid: pid, startTicks: ticks)
  }

  private init(host: String, boot: String, pid: Int32, startTicks: UInt64) {
    (self.host, self.boot, self.pid, self.startTicks) = (host, boot, pid, startTicks)
  }

  package var description: String { "\(host)/\(boot)/\(pid)/\(startTicks)" }

  /// Whether this very process is known not to run any more. `false` for another host's: nothing is known of those.
  package var isGone: Bool {
    guard host == Self.hostName else { return false }
    guard boot == Self.bootID else { return true }
    guard let stat = ProcessStatus(pid: pid), stat.isAlive else { return true }
    return stat.startTicks != startTicks
  }

  /// Whether it is, or was, a process of this machine since it was last started.
  package var isLocal: Bool { host == Self.hostName && boot == Self.bootID }

  private static let hostName: String = {
    var buffer = [CChar](repeating: 0, count: 256)
    guard gethostname(&buffer, buffer.count - 1) == 0 else { return "unknown" }
    let name = String(decoding: buffer.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return name.isEmpty ? "unknown" : name.replacing("/", with: "_")
  }()

  private static let bootID: String = {
    guard let bytes = try? Files.read("/proc/sys/kernel/random/boot_id", limitBytes: 4096) else { return "unknown" }
    return String(decoding: bytes.filter { $0 > 32 }, as: UTF8.self)
  }()
}

/// What `/proc/<pid>/stat` says about a process.
package struct ProcessStatus: Equatable, Sendable {
  /// `R`, `S`, `D`, `Z` and so on.
  package let state: UInt8
  package let group: Int32
  package let session: Int32
  package let startTicks: UInt64

  /// A zombie has ended; only its parent hasn't asked yet.
  package var isAlive: Bool { state != UInt8(ascii: "Z") && state != UInt8(ascii: "X") }

  /// - Returns: `nil` if there is no such process.
  package init?(pid: Int32) {
    guard pid > 0, let bytes = try? Files.read("/proc/\(pid)/stat", limitBytes: 1 << 16) else { return nil }
    // The second field is the program's name in parentheses, and may hold blanks and parentheses itself.
    guard let close = bytes.lastIndex(of: UInt8(ascii: ")")) else { return nil }
    let fields = bytes[(close + 1)...].split(separator: 32).map { String(decoding: $0, as: UTF8.self) }
    guard fields.count > 19, let state = fields[0].utf8.first, let group = Int32(fields[2]),
      let session = Int32(fields[3]), let ticks = UInt64(fields[19])
    else { return nil }
    (self.state, self.group, self.session, self.startTicks) = (state, group, session, ticks)
  }
}
