import Core
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Where a server's program is: on the path, or where Debian keeps servers, which is on no ordinary user's path.
func installedProgram(_ name: String) throws(BankError) -> String {
  let path = getenv("PATH").map { String(cString: $0) } ?? ""
  let places =
    path.split(separator: ":").map(String.init) + ["/usr/sbin", "/usr/bin", "/usr/local/sbin", "/usr/local/bin"]
  guard let place = places.first(where: { access("\($0)/\(name)", X_OK) == 0 }) else {
    throw .configuration("\(name) is neither on the path nor in /usr/sbin: install it (scripts/setup engines)")
  }
  return "\(place)/\(name)"
}
