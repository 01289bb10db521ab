#if canImport(Glibc)
  import Glibc
#endif

/// The variables that programs we start get to see: what a program needs, and none of our secrets.
///
/// A server lives long, and its environment can be read by whoever it lets run code.
package enum ChildEnvironment {
  private static let passedOn = ["PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"]

  /// - Parameter more: Set in addition, or instead.
  package static func variables(_ more: [String: String] = [:]) -> [String: String] {
    var result: [String: String] = [:]
    for key in passedOn { if let value = getenv(key) { result[key] = String(cString: value) } }
    if result["PATH"] == nil { result["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" }
    return result.merging(more) { _, new in new }
  }
}
