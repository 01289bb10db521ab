import CShim
import Core
import Glibc
import IO
import Synchronization

/// Another process of this machine, made to stand still: it runs nothing, so it acknowledges nothing; who talks to it waits.
///
/// By ptrace(2), as a debugger does: the kernel lets it go on when the thread that holds it ends, however that happens, so a
/// hold never outlives this process. Needs the same user with ptrace permitted, or CAP_SYS_PTRACE. Used inside a
/// ``HoldKeeper``, whose thread takes and lets go.
package final class StandingProcess: Sendable {
  private let frozen = Mutex<Held?>(nil)

  private struct Held: @unchecked Sendable { var pointer: OpaquePointer }

  package init() {}

  /// Called on the thread that calls ``letGo()``. Blocks while threads finish what they do in the kernel.
  ///
  /// - Throws: ``DriverError/permissionDenied(_:needs:)``, ``DriverError/holdImpossible(_:)``, ``DriverError/holdTimeout(_:)``;
  ///   the process goes on then.
  package func stop(_ pid: Int32, within limit: Duration) throws(DriverError) {
    guard let pointer = salvor_freeze(pid, limit.wholeNanoseconds) else {
      switch errno {
      case EPERM, EACCES:
        throw .permissionDenied("to make process \(pid) stand still", needs: "CAP_SYS_PTRACE, or to run as root")
      case ETIMEDOUT: throw .holdTimeout(limit)
      default: throw .holdImpossible("process \(pid): \(SystemFailure("ptrace").message)")
      }
    }
    let held = Held(pointer: pointer)
    frozen.withLock { $0 = held }
  }

  package func letGo() {
    let held = frozen.withLock { frozen in
      defer { frozen = nil }
      return frozen
    }
    if let held { salvor_thaw(held.pointer) }
  }
}
