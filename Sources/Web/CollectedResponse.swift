import NIOCore

/// A response while its body comes in, within the limit of its request.
struct CollectedResponse {
  private var response: WebResponse
  private let limit: Int
  private let announced: Int?

  /// - Throws: `.tooLarge` for a body that is announced as larger than it may be.
  init(status: Int, headers: [String: String], to request: WebRequest) throws(WebFailure) {
    response = WebResponse(status: status, headers: headers)
    // What a failed request gives back is for people, and short.
    limit = response.isSuccess ? request.responseLimitBytes : max(65_536, request.responseLimitBytes)
    announced = request.method == .head ? nil : headers["content-length"].flatMap { Int($0) }
    if let announced, announced > limit { throw .tooLarge(limitBytes: limit) }
    // A server may announce much and send nothing.
    response.body.reserveCapacity(max(0, min(announced ?? 0, 64 << 20)))
  }

  mutating func append(_ buffer: ByteBuffer) throws(WebFailure) {
    guard response.body.count + buffer.readableBytes <= limit else { throw .tooLarge(limitBytes: limit) }
    response.body.append(contentsOf: buffer.readableBytesView)
  }

  /// - Throws: `.connection` if less came than was announced.
  func whole() throws(WebFailure) -> WebResponse {
    if let announced, response.body.count != announced {
      throw .connection("the answer ended before it was complete")
    }
    return response
  }
}
