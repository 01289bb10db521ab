import CWatchdog
import Core
import IO
import StateKit
import Synchronization

#if canImport(Glibc)
  import Glibc
#endif

/// The kernel's watchdog, such as `/dev/watchdog`.
///
/// Opening arms it, any write feeds it, and closing it disarms it only after the letter `V`. One that would be disarmed by
/// the agent's death as well, or that can't be as quick as is asked, is refused.
/// Source: Linux, Documentation/watchdog/watchdog-api.rst.
package final class DeviceWatchdog: Watchdog {
  private let path: String
  private let open = Mutex<File?>(nil)

  package init(_ path: String) { self.path = path }

  package func arm(_ timeout: Duration) throws(WatchdogError) {
    let seconds = Int32(clamping: Int64(timeout.seconds))
    guard seconds >= 1 else { throw .unusable(path, "it counts in seconds, and \(timeout.brief) are asked for") }
    let result = open.withLock { file -> Result<Void, WatchdogError> in
      if file != nil { return .success(()) }
      do throws(WatchdogError) {
        file = try armed(seconds)
        return .success(())
      } catch { return .failure(error) }
    }
    try result.get()
  }

  private func armed(_ seconds: Int32) throws(WatchdogError) -> File {
    let file: File
    do throws(SystemFailure) { file = try File(path, O_WRONLY) } catch {
      throw .unusable(path, error.report.summary)
    }
    do throws(WatchdogError) {
      var options: UInt32 = 0
      guard salvor_watchdog_options(file.descriptor, &options) == 0 else { throw failure("it is no watchdog") }
      guard options & salvor_watchdog_has_magic_close != 0 else {
        throw .unusable(path, "it has no magic close: the agent's death would disarm it")
      }
      guard options & salvor_watchdog_can_set_timeout != 0 else { throw .unusable(path, "its time can't be set") }
      var taken: Int32 = 0
      guard salvor_watchdog_set_timeout(file.descriptor, seconds, &taken) == 0 else {
        throw failure("\(seconds) s are refused")
      }
      guard (1...seconds).contains(taken) else {
        throw .unusable(path, "it takes \(taken) s, and \(seconds) s are asked for")
      }
      try write(0, to: file)
      return file
    } catch {
      // Opening has armed it.
      try? write(UInt8(ascii: "V"), to: file)
      throw error
    }
  }

  package func feed() throws(WatchdogError) {
    let result = open.withLock { file -> Result<Void, WatchdogError> in
      guard let file else { return .failure(.unusable(path, "it isn't armed")) }
      do throws(WatchdogError) { return .success(try write(0, to: file)) } catch { return .failure(error) }
    }
    try result.get()
  }

  package func disarm() throws(WatchdogError) {
    let result = open.withLock { file -> Result<Void, WatchdogError> in
      guard let known = file else { return .success(()) }
      do throws(WatchdogError) {
        try write(UInt8(ascii: "V"), to: known)
        file = nil
        return .success(())
      } catch { return .failure(error) }
    }
    try result.get()
  }

  private func write(_ byte: UInt8, to file: File) throws(WatchdogError) {
    var byte = byte
    guard Glibc.write(file.descriptor, &byte, 1) == 1 else { throw failure("it takes nothing") }
  }

  private func failure(_ what: String) -> WatchdogError {
    .unusable(path, "\(what): \(String(cString: strerror(errno)).lowercased())")
  }
}
