import CShim
import IO

#if canImport(Glibc)
  import Glibc
#endif

/// Runs programs to their end, and says what they cost. Blocks.
enum MeasuredProgram {
  /// Built beside this program.
  static var own: String {
    var buffer = [CChar](repeating: 0, count: 4096)
    let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
    let own = String(decoding: buffer[..<max(0, count)].map { UInt8(bitPattern: $0) }, as: UTF8.self)
    return Files.parent(of: own) + "/salvor"
  }

  /// - Parameters:
  ///   - place: The program's home, and where its words of error go.
  ///   - environment: Beside `PATH` and `HOME`.
  @discardableResult
  static func run(_ words: [String], at place: String, environment: [String] = []) throws -> salvor_measured {
    let errors = try File(place + "/errors", O_RDWR | O_CREAT | O_TRUNC)
    var environment =
      (["PATH=\(ProcessPath.directories.joined(separator: ":"))", "HOME=\(place)"] + environment)
      .map { (text: String) in strdup(text) } + [nil]
    var arguments = words.map { (text: String) in strdup(text) } + [nil]
    defer { for text in environment + arguments { free(text) } }
    // A child's peak begins with its parent's; this sets the parent's back to what it holds now.
    let peak = try File("/proc/self/clear_refs", O_WRONLY)
    try [UInt8(ascii: "5")].withUnsafeBytes { try peak.write($0) }
    var measured = salvor_measured()
    guard salvor_measure(words[0], &arguments, &environment, errors.descriptor, &measured) == 0 else {
      throw SystemFailure("spawn", path: words[0])
    }
    guard measured.status == 0 else {
      let text = String(decoding: try Files.read(errors.path, limitBytes: 1 << 20), as: UTF8.self)
      throw BenchmarkError.peer(words.prefix(2).joined(separator: " "), text)
    }
    return measured
  }
}
