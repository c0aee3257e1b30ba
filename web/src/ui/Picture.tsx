/** A picture from the server. One that failed to load is asked for again, at longer and longer intervals. */
import { type ImgHTMLAttributes, useEffect, useState } from "react";
import { backOff } from "../net/backoff";

export function Picture({ src, ...rest }: ImgHTMLAttributes<HTMLImageElement> & { src: string }) {
  const [tries, setTries] = useState(0);
  const [broken, setBroken] = useState<string | null>(null);
  useEffect(() => {
    if (broken === null) return undefined;
    const timer = setTimeout(() => {
      setTries((count) => count + 1);
      setBroken(null);
    }, backOff(tries));
    return () => {
      clearTimeout(timer);
    };
  }, [broken, tries]);
  return (
    <img
      {...rest}
      key={tries} // a new element loads again
      src={src}
      data-broken={broken === src}
      onError={() => {
        setBroken(src);
      }}
    />
  );
}
