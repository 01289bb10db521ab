/// What a server's answer to a request for a part of an object comes to.
package enum RangeAnswer {
  case bytes([UInt8])
  /// The object ends before the part does.
  case pastEnd(sizeBytes: Int)
  /// Perhaps past the end, perhaps gone: the object's size must be asked for.
  case unsatisfiable
  /// The same, or a part that doesn't say which it is.
  case unnamed
  case otherBytes
  /// The whole object came: something on the way doesn't know ranges.
  case ignored
  /// No part at all: the status says why.
  case failed

  /// Source: RFC 9110, sections 14 and 15.5.17; and what servers do instead.
  package init(_ response: WebResponse, asked range: Range<Int>) {
    let named = response.headers["content-range"]
    switch response.status {
    case 200 where named != nil, 206:
      guard let part = ContentRange(named), let size = part.sizeBytes else {
        self = .unnamed
        return
      }
      if size < range.upperBound {
        self = .pastEnd(sizeBytes: size)
      } else {
        self = part.range == range && response.body.count == range.count ? .bytes(response.body) : .otherBytes
      }
    case 200: self = response.body.count == range.count && range.lowerBound == 0 ? .bytes(response.body) : .ignored
    case 416: self = .unsatisfiable
    default: self = .failed
    }
  }
}
